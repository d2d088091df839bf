"""Check the options of the decorator, and hold them.

`Options` is immutable. Messages say what was expected and what type was given, never a value that
may be data. Most modules read options; the decorator and `Live` create them.
"""

from __future__ import annotations

import functools
import math
import operator
import sys
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from datetime import timedelta
from numbers import Real
from typing import Any

DEFAULT_SIZE = 64
DEFAULT_CAPACITY = 10_000
DEFAULT_EXIT_TIMEOUT = 30.0

ADAPTIVE = ("size", "linger", "workers")
# These cannot be changed at run time.
FIXED = (
    "key", "weight", "max_weight", "dedupe", "isolate", "on_error", "executor", "broker",
    "exit_timeout", "name",
)  # fmt: skip


class Unset:
    """The type of `UNSET`, the default of an option for which None has a meaning."""

    def __repr__(self) -> str:
        return "<default>"


UNSET = Unset()


@dataclass(frozen=True, slots=True)
class Options:
    """The checked options of `@batched(...)`. Times are seconds; None means no limit."""

    size: int
    linger: float | None
    workers: int
    capacity: int | None
    key: Callable[[Any], Hashable] | None
    weight: Callable[[Any], float] | None
    max_weight: float | None
    dedupe: Callable[[Any], Hashable] | None
    isolate: bool
    on_error: Callable[[Any], Any] | None
    executor: Any
    broker: Any
    exit_timeout: float
    name: str
    is_capacity_given: bool

    @classmethod
    def checked(
        cls,
        *,
        size: object,
        linger: object,
        workers: object,
        capacity: object,
        key: object,
        weight: object,
        max_weight: object,
        dedupe: object,
        isolate: object,
        on_error: object,
        executor: object,
        broker: object,
        exit_timeout: object,
        name: object,
        default_name: str,
    ) -> Options:
        """Return the checked options.

        Raises:
            TypeError: An option has a wrong type.
            ValueError: An option has a wrong value.
        """
        size_ = whole("size", size)
        workers_ = whole("workers", workers)
        if (weight is None) != (max_weight is None):
            missing = "weight" if weight is None else "max_weight"
            raise ValueError(f"weight and max_weight go together: {missing} is missing")
        if executor is not None and broker is not None:
            raise TypeError("executor and broker exclude each other: leave out one of them")
        return cls(
            size=size_,
            linger=seconds_or_none("linger", linger),
            workers=workers_,
            capacity=capacity_of(capacity, size_, workers_),
            key=_function("key", key),
            weight=_function("weight", weight),
            max_weight=None if max_weight is None else _positive("max_weight", max_weight),
            dedupe=_dedupe(dedupe),
            isolate=flag("isolate", isolate),
            on_error=_function("on_error", on_error),
            executor=_executor(executor),
            broker=_broker(broker),
            exit_timeout=_exit_timeout(exit_timeout),
            name=default_name if name is None else _name(name),
            is_capacity_given=not isinstance(capacity, Unset),
        )

    @property
    def is_plain(self) -> bool:
        """True if no option needs a function of each item."""
        return self.key is None and self.weight is None and self.dedupe is None

    def changed(self, option: str, value: object) -> Options:
        """Return a copy with another size, linger, workers or capacity, checked in the same way."""
        if option == "linger":
            return replace(self, linger=seconds_or_none("linger", value))
        size, workers, capacity = self.size, self.workers, self.capacity
        if option == "size":
            size = whole("size", value)
        elif option == "workers":
            workers = whole("workers", value)
        if option == "capacity":
            capacity = capacity_of(value, size, workers)
        elif not self.is_capacity_given:
            capacity = capacity_of(UNSET, size, workers)
        elif capacity is not None and size > capacity:
            raise ValueError(f"size must be <= capacity ({capacity}), got {size}")
        is_given = self.is_capacity_given or option == "capacity"
        return replace(
            self, size=size, workers=workers, capacity=capacity, is_capacity_given=is_given
        )


class Live:
    """The options of one scope, some of which can be changed at run time from any thread.

    A change is one store into a dict. The thread that made it then rebuilds `now` until `now`
    contains all changes. So neither two threads nor a signal handler during a change need a lock.
    """

    __slots__ = ("_base", "_changes", "now")

    def __init__(self, options: Options) -> None:
        self._base = options
        self._changes: dict[str, Any] = {}
        self.now = options

    def change(self, option: str, value: object) -> None:
        """Change size, linger, workers or capacity.

        Raises:
            TypeError: The value has a wrong type.
            ValueError: The value is out of range, or contradicts another option.
        """
        self._changes[option] = getattr(self.now.changed(option, value), option)
        while True:
            changes = dict(self._changes)
            now = replace(self._base, **changes)
            if "capacity" in changes:
                now = replace(now, is_capacity_given=True)
            elif not now.is_capacity_given:
                now = replace(now, capacity=capacity_of(UNSET, now.size, now.workers))
            self.now = now
            if changes == self._changes:
                return


def kind(value: object) -> str:
    """Return the name of the type of a value, for error messages, which must not contain data."""
    return "None" if value is None else type(value).__name__


def default_name(function: Any) -> str:
    """Return the qualified name of `function`, also of a partial or a callable object."""
    function = _inner(function)
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)


def full_name(function: Any) -> str:
    """Return `module.qualified_name` of `function`."""
    return f"{getattr(_inner(function), '__module__', None)}.{default_name(function)}"


def _inner(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def whole(option: str, value: object, least: int = 1) -> int:
    """Return an integer >= `least` as an int; a bool does not count as an integer."""
    number = None if isinstance(value, bool) else _index(value)
    if number is None:
        raise TypeError(f"{option} must be an int >= {least}, got {_got(option, value)}")
    if number < least:
        raise ValueError(f"{option} must be an int >= {least}, got {number}")
    return number


def _index(value: Any) -> int | None:
    try:
        return int(operator.index(value))
    except TypeError:
        return None


def _got(option: str, value: object) -> str:
    """Return how a message describes a wrong value; some options will take "auto"."""
    is_auto = isinstance(value, str) and value == "auto" and option in ADAPTIVE
    return 'str ("auto" is not supported yet)' if is_auto else kind(value)


def as_float(value: Any) -> float | None:
    """Return a real number as a float, and None for anything else, including a bool.

    A number beyond the range of a float becomes the largest float. As a time limit it is clamped
    again before it is passed to the operating system.
    """
    if isinstance(value, bool):
        return None
    number = value if issubclass(type(value), Real) else _index(value)
    if number is None:
        return None
    try:
        return float(number)
    except OverflowError:
        return sys.float_info.max if value > 0 else -sys.float_info.max


def seconds(option: str, value: object, *, takes_none: bool = False) -> float:
    """Return a number or a timedelta as a finite number of seconds >= 0."""
    number = _seconds(option, value, takes_none)
    if number == math.inf:
        hint = "; write None for no limit" if takes_none else ""
        raise ValueError(f"{option} must be finite, got inf{hint}")
    return number


def seconds_or_none(option: str, value: object) -> float | None:
    """Return None, or what `seconds` returns."""
    return None if value is None else seconds(option, value, takes_none=True)


def time_limit(option: str, value: object) -> float | None:
    """Return a number of seconds >= 0, or None for no limit, which may be written None or inf."""
    number = None if value is None else _seconds(option, value, takes_none=True)
    return None if number == math.inf else number


def _seconds(option: str, value: object, takes_none: bool = False) -> float:
    if isinstance(value, timedelta):
        value = value.total_seconds()
    number = as_float(value)
    if number is None:
        form = ", a timedelta or None" if takes_none else " or a timedelta"
        raise TypeError(f"{option} must be a number of seconds{form}, got {_got(option, value)}")
    if not number >= 0:  # also nan
        raise ValueError(f"{option} must be >= 0, got {number}")
    return number


def capacity_of(value: object, size: int, workers: int) -> int | None:
    """Return the capacity: an int >= size, None for no limit, or the default if it is unset."""
    if value is None:
        return None
    if isinstance(value, Unset):
        return max(DEFAULT_CAPACITY, 2 * size * workers)
    capacity = whole("capacity", value)
    if capacity < size:
        raise ValueError(f"capacity must be >= size ({size}) or None, got {capacity}")
    return capacity


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"name must be a str or None, got {kind(value)}")
    if not value:
        raise ValueError("name must not be empty")
    return value


def flag(option: str, value: object) -> bool:
    """Return `value` if it is True or False, else raise TypeError."""
    if not isinstance(value, bool):
        raise TypeError(f"{option} must be True or False, got {kind(value)}")
    return value


def _function(option: str, value: object) -> Callable[[Any], Any] | None:
    if value is not None and not callable(value):
        raise TypeError(f"{option} must be a function or None, got {kind(value)}")
    return value


def _executor(value: object) -> object:
    if value is not None and not (callable(value) or callable(getattr(value, "submit", None))):
        raise TypeError(
            f"executor must be an executor, a function that makes one, or None, got {kind(value)}"
        )
    return value


def _broker(value: object) -> Any:
    if value is not None and not (hasattr(value, "producer") and hasattr(value, "consumer")):
        hint = " (URLs are not supported yet)" if isinstance(value, str) else ""
        raise TypeError(
            f"broker must be a broker such as RedisStreams(url), or None, got {kind(value)}{hint}"
        )
    return value


def _dedupe(value: object) -> Callable[[Any], Hashable] | None:
    if value is False:
        return None
    if value is True:
        return identity
    if not callable(value):
        raise TypeError(f"dedupe must be True, False or a function of an item, got {kind(value)}")
    return value


def identity(item: Any) -> Any:
    """Return `item`. `dedupe=True` compares the items themselves."""
    return item


def _positive(option: str, value: object) -> float:
    number = as_float(value)
    if number is None:
        raise TypeError(f"{option} must be a number > 0, got {kind(value)}")
    if not 0 < number < math.inf:
        raise ValueError(f"{option} must be a number > 0, got {number}")
    return number


def _exit_timeout(value: object) -> float:
    number = _seconds("exit_timeout", value)
    return min(number, sys.float_info.max)  # inf: no limit
