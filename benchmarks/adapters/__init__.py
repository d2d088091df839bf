"""The rivals: one file for each library, with one or more `Rival` classes; and the floors."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from types import ModuleType

from .. import floors
from .base import Rival

__all__ = ["Rival", "find"]


def find() -> tuple[list[type[Rival]], dict[str, str]]:
    """Return all rivals that can be imported, and the reason for each that cannot."""
    rivals: list[type[Rival]] = []
    skipped: dict[str, str] = {}
    for _, name, _ in pkgutil.iter_modules(__path__):
        try:
            module = importlib.import_module(f"{__name__}.{name}")
        except ImportError as error:
            skipped[name] = str(error)
            print(f"!!! adapters/{name}.py is SKIPPED: {error}", file=sys.stderr)
            continue
        rivals += _in(module)
    return rivals + _in(floors), skipped


def _in(module: ModuleType) -> list[type[Rival]]:
    return [
        found
        for found in vars(module).values()
        if isinstance(found, type)
        and issubclass(found, Rival)
        and found.__module__ == module.__name__
        and hasattr(found, "name")  # without a name it is a base class
    ]
