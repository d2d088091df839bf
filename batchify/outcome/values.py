"""What the function gave back, taken apart: a value for each item, or why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import CoroutineType
from typing import Any

from ..errors import MissingResult
from ..future import Failure
from ..options import kind
from ..retry import Retry
from .faults import bad_result, element_failure
from .talk import Give

_MISSING = object()
_SPECIAL = (BaseException, Retry)  # elements that are no results
_USUAL = frozenset({type(None), bool, int, float, str, bytes, tuple, list, dict})


def is_simple(returned: Any, count: int) -> bool:
    """Is it a list of `count` results, as is usual? Then it needs no taking apart."""
    return type(returned) is list and len(returned) == count and _are_results(returned)


def _are_results(values: list[Any]) -> bool:
    """Are all elements results?

    The types tell: to look them up costs 20 ns an item, an isinstance for each 40 ns.
    """
    try:
        if _USUAL.issuperset(map(type, values)):
            return True
        types: Iterable[type] = set(map(type, values))
    except Exception:  # a class that cannot be hashed
        types = map(type, values)
    return not any(issubclass(cls, _SPECIAL) for cls in types)


def values_of(returned: Any, items: list[Any], places: range) -> Give | Failure:
    """The values for the items at `places` out of what was given back, or why there are none."""
    count = len(places)
    if returned is None:
        return Give(places, [None] * count, True)
    if type(returned) is list or _is_sequence(type(returned)):
        try:
            values = returned if type(returned) is list else list(returned)
            found = len(values)
        except Exception as error:
            return bad_result(
                f"a sequence of {count} results", f"{kind(returned)} of no length", error
            )
        if found != count:
            return bad_result(f"{count} results, one for each item", f"{found}")
        return _sorted_out(values, places)
    if issubclass(type(returned), Mapping):
        return _from_mapping(returned, items[places.start : places.stop], places)
    if type(returned) is CoroutineType:
        returned.close()
        return bad_result(
            "results", "a coroutine (decorate the `async def` itself, not a `def` around it)"
        )
    return bad_result(
        f"a sequence of {count} results, a mapping, a generator or None", kind(returned)
    )


def _is_sequence(cls: type) -> bool:
    """Sized and ordered: also arrays; not text, and not tables that iterate over their keys."""
    if issubclass(cls, (str, bytes, bytearray)):
        return False
    if issubclass(cls, Sequence):
        return True
    return (
        hasattr(cls, "__len__")
        and hasattr(cls, "__getitem__")
        and hasattr(cls, "__iter__")
        and not hasattr(cls, "keys")
    )


def _sorted_out(values: list[Any], places: range) -> Give:
    """Elements that are exception instances become failures, `Retry` stays."""
    if _are_results(values):
        return Give(places, values, True)
    seen: set[int] = set()
    values = [
        element_failure(value, seen) if issubclass(type(value), BaseException) else value
        for value in values
    ]
    return Give(places, values, False)


def _from_mapping(returned: Mapping[Any, Any], items: list[Any], places: range) -> Give | Failure:
    values: list[Any] = []
    for item in items:
        try:
            value = returned.get(item, _MISSING)
        except Exception as error:
            return bad_result(
                "a mapping by item", f"{kind(item)} items that it cannot look up", error
            )
        if value is _MISSING:
            value = MissingResult("the mapping given back has no value for this item")
        values.append(value)
    return _sorted_out(values, places)
