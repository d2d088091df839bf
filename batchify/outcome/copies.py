"""Copy exceptions, so that each caller gets its own object with the same type and content.

The original is never changed, nor is any exception linked to it, because the user's code may hold
them. An exception that cannot be copied is shared.
Callers are `exceptions`, `remote` and `codec`.
"""

from __future__ import annotations

import builtins
import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from types import GetSetDescriptorType, MemberDescriptorType, TracebackType
from typing import Any

from .tracebacks import snapshot, traceback_of

_BUILT_IN = frozenset(
    cls
    for cls in vars(builtins).values()
    if isinstance(cls, type) and issubclass(cls, BaseException)
)
_STORED = (MemberDescriptorType, GetSetDescriptorType)
_UNSET = object()
_LINKS = ("__cause__", "__context__")
# Attributes that are not content, or that `_fill` copies in another way.
_NO_FIELDS = frozenset(
    ["__class__", "__dict__", "__weakref__", "__traceback__", "__suppress_context__", *_LINKS]
)

# A class may override these attributes; the descriptors of BaseException run none of its code.
_own = vars(BaseException)
_dict_of: Callable[[BaseException], dict[str, Any]] = _own["__dict__"].__get__
_links = [_own[name] for name in _LINKS]
_suppress, _traceback, _args = (
    _own[name] for name in ("__suppress_context__", "__traceback__", "args")
)


def copy_of(error: BaseException) -> BaseException | None:
    """Return a copy of `error`, or None if that is not possible.

    The copy has the traceback, cause and context of `error`. No code of the class runs, unless the
    class has a `__copy__`, or stores fields in C that the built-in exceptions do not have.
    """
    makers = (_constructed, _blank, copy.copy)
    for make in reversed(makers) if hasattr(type(error), "__copy__") else makers:
        try:
            new = make(error)
            if new is not error and type(new) is type(error) and _fill(new, error):
                return new
        except Exception:
            continue
    return None


def _fields_of(cls: type[BaseException]) -> tuple[tuple[str, Any], ...]:
    """Return the names and descriptors of the fields that `cls` stores outside of `__dict__`.

    These are slots, and the fields that built-in types and extension modules store in C.
    """
    return tuple(
        (name, field)
        for base in cls.__mro__
        for name, field in vars(base).items()
        if type(field) in _STORED and name not in _NO_FIELDS
    )


fields_of: Callable[[type[BaseException]], tuple[tuple[str, Any], ...]]
fields_of = lru_cache(maxsize=128)(_fields_of)  # type: ignore[assignment]  # a type has a hash


def constructed(cls: type[BaseException], args: Sequence[Any]) -> BaseException:
    """Return an exception of `cls`, made from `args` by the built-in base of `cls`."""
    built_in = _built_in_base(cls)
    new: BaseException = built_in.__new__(cls, *args)
    built_in.__init__(new, *args)
    return new


def _constructed(error: BaseException) -> BaseException:
    """Return a copy made from the original arguments: `args` may have been changed since."""
    if _is_group(error):
        return _blank(error)
    return constructed(type(error), _built_in_base(type(error)).__reduce__(error)[1])


def blank(cls: type[BaseException], *args: Any) -> BaseException:
    """Return an exception of `cls` without content; only exception groups take `args`."""
    new: BaseException = _built_in_base(cls).__new__(cls, *args)
    return new


def _built_in_base(cls: type[BaseException]) -> Any:
    return next(base for base in cls.__mro__ if base in _BUILT_IN)


def _blank(error: BaseException) -> BaseException:
    if _is_group(error):
        return blank(type(error), *_content_of_group(error))
    return blank(type(error))


def _is_group(error: BaseException) -> bool:
    return issubclass(type(error), BaseExceptionGroup)


def _content_of_group(group: BaseException) -> tuple[str, Sequence[BaseException]]:
    own = vars(BaseExceptionGroup)
    return own["message"].__get__(group), own["exceptions"].__get__(group)


def _fill(new: BaseException, error: BaseException) -> bool:
    """Copy the content of `error` into `new`; return True if `new` then has all of it."""
    state = _dict_of(new)
    state.update(_dict_of(error))
    if type(state.get("__notes__")) is list:
        state["__notes__"] = state["__notes__"].copy()
    is_equal = len(state) == len(_dict_of(error))
    for _, field in fields_of(type(error)):
        value = _read(field, error)
        if value is _read(field, new):  # setting an unset field in C to None would change it
            continue
        try:
            field.__set__(new, value)
        except (AttributeError, TypeError):  # read-only
            is_equal = is_equal and _is_same(_read(field, new), value)
    _set_links(new, error, traceback_of(error), {})
    return is_equal


def _read(field: Any, error: BaseException) -> Any:
    try:
        return field.__get__(error)
    except AttributeError:  # not set
        return _UNSET


def _set_links(
    new: BaseException,
    error: BaseException,
    traceback: TracebackType | None,
    known: dict[int, BaseException],
) -> None:
    """Give `new` the cause and context of `error`, or their copies if `known` has them."""
    for field in _links:
        linked = field.__get__(error)
        if linked is not None:
            field.__set__(new, known.get(id(linked), linked))
    _suppress.__set__(new, _suppress.__get__(error))  # last, because setting a cause changes it
    _traceback.__set__(new, traceback)


def _is_same(new: Any, value: Any) -> bool:
    if new is value:
        return True
    if type(new) is not type(value):
        return False
    eq: object = type(value).__eq__
    if eq is object.__eq__:  # no comparison is defined
        return True
    return bool(new == value)


# ---- for other processes ----


def has_same_content(new: BaseException, error: BaseException) -> bool:
    """Return True if `new`, unpickled from a pickle of `error`, has the same content."""
    state, others = _dict_of(error), _dict_of(new)
    fields = [(_read(field, new), _read(field, error)) for _, field in fields_of(type(error))]
    return state.keys() == others.keys() and all(
        _is_same(*pair) for pair in [*fields, *((others[name], state[name]) for name in state)]
    )


def parts_of(error: BaseException) -> tuple[Any, ...]:
    """Return the arguments from which `from_parts` makes the same exception, in any process."""
    fields = {name: _read(field, error) for name, field in fields_of(type(error))}
    group = _content_of_group(error) if _is_group(error) else ()
    state = _dict_of(error)
    return type(error), group, {n: v for n, v in fields.items() if v is not _UNSET}, state


def from_parts(
    cls: type[BaseException],
    group: tuple[Any, ...],
    fields: dict[str, Any],
    state: dict[str, Any],
) -> BaseException:
    """Return an exception made from `parts_of` another one, without running code of its class.

    Args:
        cls: its type.
        group: the arguments of an exception group's constructor; empty for others.
        fields: values that the class stores outside of `__dict__`.
        state: the content of `__dict__`.
    """
    new = blank(cls, *group)
    for name, field in fields_of(cls):
        if name in fields and _read(field, new) is not fields[name]:
            with contextlib.suppress(AttributeError, TypeError):  # read-only
                field.__set__(new, fields[name])
    _dict_of(new).update(state)
    return new


def built_in_fields_of(cls: type[BaseException]) -> dict[str, Any]:
    """Return the fields, except `args`, that the built-in bases of `cls` store in C."""
    return {
        name: field
        for name, field in fields_of(cls)
        if name != "args" and field.__objclass__ in _BUILT_IN
    }


# ---- for callers ----


def for_callers(
    error: BaseException, traceback: TracebackType | None, items: Sequence[Any] = ()
) -> BaseException:
    """Return a copy of `error` that refers to no frame, and to no item that batchify added.

    Its causes, its contexts, the members of groups, and the exceptions among its arguments and
    attributes are copied too. An exception that cannot be copied only gets another traceback and
    other links.

    Args:
        error: the original.
        traceback: the traceback of the copy, a `snapshot`.
        items: the items of the batch. `AttributeError.obj` is left out if it is one of them.
    """
    has_links = any(True for _ in _linked(error))  # perhaps only to itself
    originals = _reachable(error) if has_links else [error]
    known: dict[int, BaseException] = {}
    for one in originals:
        _copy(one, known)
    for one in originals:
        new = known[id(one)]
        _set_links(new, one, traceback if one is error else snapshot(traceback_of(one)), known)
        if new is not one:
            if has_links:
                _replace_fields(new, known)
            _hide_items(new, items)
    return known[id(error)]


def _reachable(error: BaseException) -> list[BaseException]:
    """Return `error` and the exceptions reachable from it that refer to something themselves."""
    found = {id(error): error}
    todo = [error]
    while todo:
        for linked in _linked(todo.pop()):
            if id(linked) not in found and _has_references(linked):
                found[id(linked)] = linked
                todo.append(linked)
    return list(found.values())


def _has_references(error: BaseException) -> bool:
    """Return True if `error` refers to frames or to other exceptions."""
    return traceback_of(error) is not None or any(True for _ in _linked(error))


def _linked(error: BaseException) -> Iterator[BaseException]:
    candidates: list[Any] = [field.__get__(error) for field in _links]
    for value in (*_args.__get__(error), *_dict_of(error).values()):
        candidates += value if type(value) in (list, tuple) else [value]
    if _is_group(error):
        candidates += _content_of_group(error)[1]
    return (one for one in candidates if issubclass(type(one), BaseException))


def _copy(error: BaseException, known: dict[int, BaseException]) -> BaseException:
    """Return a copy of `error` and record it in `known`; return `error` if it cannot be copied."""
    new = known.get(id(error))
    if new is None and _is_group(error):
        with contextlib.suppress(Exception):
            message, members = _content_of_group(error)
            copied = [_copy(one, known) if _has_references(one) else one for one in members]
            new = blank(type(error), message, copied)
            _fill(new, error)
    known[id(error)] = new = new or copy_of(error) or error
    return new


def _hide_items(new: BaseException, items: Sequence[Any]) -> None:
    if issubclass(type(new), AttributeError):
        field = vars(AttributeError)["obj"]
        if any(field.__get__(new) is item for item in items):
            field.__set__(new, None)


def _replace_fields(new: BaseException, known: dict[int, BaseException]) -> None:
    """Replace the exceptions in the fields of `new` with their copies."""
    state = _dict_of(new)
    state.update({name: _replaced(value, known) for name, value in state.items()})
    for _, field in fields_of(type(new)):
        value = _read(field, new)
        replaced = _replaced(value, known)
        if replaced is not value:
            with contextlib.suppress(AttributeError, TypeError):  # read-only
                field.__set__(new, replaced)


def _replaced(value: Any, known: dict[int, BaseException], depth: int = 2) -> Any:
    """Return `value` with exceptions replaced by their copies, also in nested lists and tuples."""
    if type(value) not in (list, tuple) or not depth:
        return known.get(id(value), value)
    replaced = [_replaced(one, known, depth - 1) for one in value]
    is_same = all(new is one for new, one in zip(replaced, value, strict=True))
    return value if is_same else type(value)(replaced)
