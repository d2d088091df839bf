"""Split what the function returned into one value per item, or explain why that is impossible.

Only the type of a result is looked at, because its methods are the user's code.
Callers are `attempt`, and the engines for plain lists (`is_simple`).
"""

from __future__ import annotations

from collections import UserString
from collections.abc import AsyncIterator, Iterable, Mapping, MappingView, Sequence, Set
from itertools import islice
from types import CoroutineType
from typing import Any

from ..errors import MissingResult
from ..future import Failure
from ..logs import counted
from ..options import kind
from ..retry import Retry
from .exceptions import bad_result, element_failure
from .protocol import Settle

_MISSING = object()
_SPECIAL = (BaseException, Retry)  # elements that are not results
_USUAL = frozenset({type(None), bool, int, float, str, bytes, tuple, list, dict})
_TEXT = (str, UserString, bytes, bytearray, memoryview)
_PER_ITEM = "return one result per item, in order, or a mapping {item: result}"
_MAX_KEYS = 100  # the keys of a mapping whose types a message lists


def is_simple(returned: Any, count: int) -> bool:
    """Return True if `returned` is a list of `count` results, which nearly every batch returns."""
    return type(returned) is list and len(returned) == count and _are_results(returned)


def _are_results(values: list[Any]) -> bool:
    """Return True if no element is an exception or a `Retry`.

    Looking up the types takes 20 ns per item; an isinstance check would take 40 ns.
    """
    try:
        if _USUAL.issuperset(map(type, values)):
            return True
        types: Iterable[type] = set(map(type, values))
    except Exception:  # an unhashable class
        types = map(type, values)
    return not any(issubclass(cls, _SPECIAL) for cls in types)


def values_of(returned: Any, items: list[Any], positions: range, name: str) -> Settle | Failure:
    """Return the values for the items at `positions`, or the failure of all of them.

    Args:
        returned: what the function returned, unless that is an iterator.
        items: the items of the batch.
        positions: the positions of the items that the function was called with.
        name: the function that returned it, for messages.
    """
    count = len(positions)
    if returned is None:
        return Settle(positions, [None] * count, True)
    if type(returned) is list or _is_sequence(returned):
        try:
            values = returned if type(returned) is list else list(returned)
            found = len(values)
        except Exception as error:
            return bad_result(
                f"{name} returned {kind(returned)}, which raised {kind(error)} when it was read; "
                f"{_PER_ITEM}",
                error,
            )
        if found != count:
            return bad_result(
                f"{name} returned {counted(found, 'result')} for {counted(count, 'item')}; "
                f"{_PER_ITEM}"
            )
        return _settle(values, positions, name)
    if issubclass(type(returned), Mapping):
        return _from_mapping(returned, items[positions.start : positions.stop], positions, name)
    if type(returned) is CoroutineType and not (returned.cr_running or returned.cr_suspended):
        returned.close()  # not started, so it would warn that it was never awaited
    return bad_result(
        f"{name} returned {kind(returned)} for {counted(count, 'item')}; {_advice(returned)}"
    )


def _is_sequence(returned: Any) -> bool:
    """Return True if `returned` has a length and an order, and is neither text nor a table."""
    cls = type(returned)
    if issubclass(cls, _TEXT):
        return False
    if issubclass(cls, (Sequence, MappingView)):
        return True
    if not all(hasattr(cls, name) for name in ("__len__", "__getitem__", "__iter__")):
        return False
    if _is_table(cls) or issubclass(cls, Mapping):
        return False
    return not hasattr(cls, "keys") or _is_series(returned)


def _is_table(cls: type) -> bool:
    return hasattr(cls, "columns")  # pandas, polars, PyArrow: iterating yields the columns


def _is_series(returned: Any) -> bool:
    """Return True for a pandas Series, whose `keys` are its index."""
    try:
        return hasattr(type(returned), "ndim") and bool(returned.ndim == 1)
    except Exception:
        return False


def _advice(returned: Any) -> str:
    """Return what to tell a user whose function returned `returned`."""
    cls = type(returned)
    if _is_table(cls):
        for method, call in _ROWS.items():
            if hasattr(cls, method):
                return f"return a list with one element per row: df.{call}"
        return "return a list with one element per row"
    if issubclass(cls, CoroutineType):
        return "put @batched on the `async def` itself, not on a `def` around it"
    if issubclass(cls, AsyncIterator):
        return "put @batched on an `async def`, which can consume it"
    if issubclass(cls, BaseException):
        return f"raise it to fail the whole batch, or {_PER_ITEM}"
    if issubclass(cls, Set):
        return f"a set has no order: {_PER_ITEM}"
    return _PER_ITEM


# By attribute of the table: the call that returns its rows as a list.
_ROWS = {"to_dicts": "to_dicts()", "to_pylist": "to_pylist()", "to_dict": 'to_dict("records")'}


def _settle(values: list[Any], positions: range, name: str) -> Settle:
    """Return the request to settle `values`, with exceptions wrapped in failures."""
    if _are_results(values):
        return Settle(positions, values, True)
    values = [
        element_failure(value, name) if issubclass(type(value), BaseException) else value
        for value in values
    ]
    return Settle(positions, values, False)


def _from_mapping(
    returned: Mapping[Any, Any], items: list[Any], positions: range, name: str
) -> Settle | Failure:
    values: list[Any] = []
    keys = ""
    for item in items:
        try:
            value = returned.get(item, _MISSING)
        except Exception as error:
            return bad_result(
                f"{name} returned a mapping, in which items of type {kind(item)} cannot be looked "
                f"up ({kind(error)}); return a list with one result per item, in order",
                error,
            )
        if value is _MISSING:
            keys = keys or _key_types(returned)
            value = MissingResult(
                f"{name} returned a mapping without this item (items are {kind(item)}, {keys}); "
                f"return every item as a key, or None for missing ones"
            )
        values.append(value)
    return _settle(values, positions, name)


def _key_types(returned: Mapping[Any, Any]) -> str:
    """Return the types of its keys as text for a message."""
    try:
        names = sorted({kind(key) for key in islice(returned, _MAX_KEYS)})
    except Exception:
        return "its keys cannot be read"
    return f"keys are {' or '.join(names)}" if names else "it is empty"
