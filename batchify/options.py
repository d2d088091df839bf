"""The options of a decorator: checked once, immutable, one style of message."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

DEFAULT_SIZE = 64
DEFAULT_CAPACITY = 10_000
DEFAULT_EXIT_TIMEOUT = 30.0


class Unset:
    """The type of `UNSET`: an option that was not given, where None has a meaning."""

    def __repr__(self) -> str:
        return "<default>"


UNSET = Unset()


@dataclass(frozen=True, slots=True)
class Options:
    """What `@batched(...)` was asked for. Times are seconds; None means "without a limit"."""

    size: int
    linger: float | None
    workers: int
    capacity: int | None
    on_error: Callable[[Any], Any] | None
    exit_timeout: float
    name: str

    @classmethod
    def checked(
        cls,
        *,
        size: object,
        linger: object,
        workers: object,
        capacity: object,
        on_error: object,
        exit_timeout: object,
        name: object,
        default_name: str,
    ) -> Options:
        """Check every option.

        Raises:
            TypeError: an option has a wrong type.
            ValueError: an option has a wrong value.
        """
        size_ = whole("size", size)
        workers_ = whole("workers", workers)
        if on_error is not None and not callable(on_error):
            raise TypeError(f"on_error must be a function or None, got {kind(on_error)}")
        return cls(
            size=size_,
            linger=seconds_or_none("linger", linger),
            workers=workers_,
            capacity=_capacity(capacity, size_, workers_),
            on_error=on_error,
            exit_timeout=seconds("exit_timeout", exit_timeout),
            name=default_name if name is None else _name(name),
        )


def kind(value: object) -> str:
    """How an error message names what was given: by its type, never by its content."""
    return "None" if value is None else type(value).__name__


def whole(option: str, value: object, least: int = 1) -> int:
    """An int >= `least`; a bool is no int."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{option} must be an int >= {least}, got {kind(value)}")
    if value < least:
        raise ValueError(f"{option} must be an int >= {least}, got {value}")
    return value


def seconds(option: str, value: object) -> float:
    """A finite number of seconds >= 0, also given as a timedelta.

    Numbers beyond the range of a float are taken as its largest value: a wait "for ever" is
    clamped again where it reaches the operating system.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{option} must be a number of seconds or a timedelta, got {kind(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = sys.float_info.max if value > 0 else -sys.float_info.max
    if not math.isfinite(number):
        hint = " (None means without a limit)" if option == "linger" else ""
        raise ValueError(f"{option} must be finite, got {number}{hint}")
    if number < 0:
        raise ValueError(f"{option} must be >= 0, got {number}")
    return number


def seconds_or_none(option: str, value: object) -> float | None:
    """As `seconds`, or None."""
    return None if value is None else seconds(option, value)


def _capacity(value: object, size: int, workers: int) -> int | None:
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
