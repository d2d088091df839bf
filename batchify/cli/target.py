"""`module:function`, as the commands are given it."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any


class Unfit(Exception):
    """What was asked for cannot be done; the message says why."""


def found(target: str) -> Any:
    """What `module:name` leads to.

    Raises:
        Unfit: nothing is there.
    """
    module, _, name = target.partition(":")
    if not module or not name:
        raise Unfit(f"{target!r} is not of the form module:function")
    if os.getcwd() not in sys.path:  # as `python -m` does, and scripts of other names do not
        sys.path.insert(0, os.getcwd())
    try:
        thing: Any = importlib.import_module(module)
        for part in name.split("."):
            thing = getattr(thing, part)
    except Exception as error:  # also of the module itself
        raise Unfit(f"{target!r} is not found: {kind_of(error)}: {error}") from error
    return thing


def kind_of(thing: object) -> str:
    """How it is called in a message."""
    return type(thing).__name__
