"""Names of functions: how another process finds a function, and what decorators hide.

Nothing here changes a function. `remote`, `broker` and the decorator call it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import Any

from .options import kind


def name_of(function: Any) -> tuple[Any, Any]:
    """The module and the qualified name of a function, as far as it has them."""
    if inspect.ismethod(function):
        function = function.__func__
    return getattr(function, "__module__", None), getattr(function, "__qualname__", None)


def why_not_found(function: Any) -> str | None:
    """Why `function` is not what its name leads to; None when it is."""
    module, name = name_of(function)
    if not isinstance(module, str) or not isinstance(name, str):
        return f"{kind(function)} has none"
    if "<" in name:
        return f"{name} is inside another function, or a lambda"
    try:
        found = found_by_name(module, name)
    except (ImportError, AttributeError) as error:
        return f"{module}.{name} is not found ({kind(error)})"
    return None if found is function else f"{module}.{name} is something else"


def found_by_name(module: str, name: str) -> Any:
    """The plain function of that name: what is under `@batched`, where that stands there."""
    from .decorator import Batched

    target: Any = importlib.import_module(module)
    for part in name.split("."):
        if isinstance(target, type) and part.startswith("__") and not part.endswith("__"):
            part = f"_{target.__name__.lstrip('_')}{part}"  # noqa: PLW2901  # as compiled
        target = inspect.getattr_static(target, part)
    links = [target]
    while (link := inner(links[-1])) is not None and not any(link is one for one in links):
        links.append(link)
    for link in links:
        if isinstance(link, Batched):
            target = inner(link)
            break
    while isinstance(target, (classmethod, staticmethod)):
        target = target.__func__
    return target


def inner(link: Any) -> Any:
    """Return what `link` wraps or binds, None if that is nothing."""
    if isinstance(link, functools.partial):
        return link.func
    if isinstance(link, (classmethod, staticmethod)) or inspect.ismethod(link):
        return link.__func__
    return getattr(link, "__wrapped__", None)
