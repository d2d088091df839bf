"""Find functions by name, as another process does, and look through decorators.

It never changes a function. Callers are `remote`, `broker` and the decorator.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from typing import Any

from .options import kind


def name_of(function: Any) -> tuple[Any, Any]:
    """Return the module and the qualified name of a function; None for what it does not have."""
    if inspect.ismethod(function):
        function = function.__func__
    return getattr(function, "__module__", None), getattr(function, "__qualname__", None)


def why_not_found(function: Any) -> str | None:
    """Return why another process cannot import `function` by its name; None if it can."""
    module, name = name_of(function)
    if not isinstance(module, str) or not isinstance(name, str):
        return f"{kind(function)} has no name"
    if "<" in name:
        return f"{name} is inside another function, or a lambda"
    try:
        found = found_by_name(module, name)
    except (ImportError, AttributeError) as error:
        return f"{module}.{name} is not found ({kind(error)})"
    return None if found is function else f"{module}.{name} is another object"


def found_by_name(module: str, name: str) -> Any:
    """Return the function of that name; if it is batched, the undecorated one."""
    from .decorator import Batched

    target: Any = importlib.import_module(module)
    for part in name.split("."):
        if isinstance(target, type) and part.startswith("__") and not part.endswith("__"):
            part = f"_{target.__name__.lstrip('_')}{part}"  # noqa: PLW2901  # the compiler mangles private names
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
    """Return the function that `link` wraps or binds; None if it wraps nothing."""
    if isinstance(link, functools.partial):
        return link.func
    if isinstance(link, (classmethod, staticmethod)) or inspect.ismethod(link):
        return link.__func__
    return getattr(link, "__wrapped__", None)
