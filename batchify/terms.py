"""The terms of an item: what one call asked for besides its item.

The user's functions (`key`, `weight`, `dedupe`) run in the caller's thread, and their errors are
raised by the call. Engines call this when an item is submitted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from datetime import datetime, time
from numbers import Number, Rational
from typing import Any

from .errors import ItemTooHeavy
from .options import Options, as_float, identity, kind


class Terms:
    """What the batch of an item must respect. Most items share `NO_TERMS`."""

    __slots__ = (
        "again", "deadline", "dedupe_key", "is_flushed", "order", "priority", "tries", "weight",
    )  # fmt: skip

    def __init__(
        self,
        *,
        priority: float = 0,
        deadline: float | None = None,
        weight: float = 0,
        dedupe_key: Hashable = None,
    ) -> None:
        self.priority = priority
        self.deadline = deadline  # on the engine's clock
        self.weight = weight
        self.dedupe_key = dedupe_key  # equal items have equal keys, see `same_key`
        self.tries = 0  # how often it has run, if it was requeued
        self.again = 0.0  # when it was requeued: it competes with other groups as if submitted then
        self.is_flushed = False  # dispatch it without delay, also after it was requeued
        self.order: tuple[float, float, int] | None = None  # its place among requeued items


NO_TERMS = Terms()


def flushed(terms: Terms) -> Terms:
    """Return the terms of an item that must be dispatched without delay from now on."""
    if terms is NO_TERMS:
        terms = Terms()
    terms.is_flushed = True
    return terms


def terms_of(
    options: Options, item: Any, priority: float = 0, deadline: float | None = None
) -> Terms:
    """Return the terms of an item. Calls the user's functions `weight` and `dedupe`.

    Raises:
        ItemTooHeavy: It weighs more than `max_weight`.
        TypeError: `weight` did not return a number, or `dedupe` nothing hashable.
        ValueError: The weight is negative or nan.
        Exception: Any error of the user's functions.
    """
    weight: float = 0
    dedupe_key = None
    if options.weight is not None and options.max_weight is not None:
        weight = _weight(options.name, options.weight(item))
        if weight > options.max_weight:
            raise ItemTooHeavy(
                f"{options.name}: the item weighs {weight:g}, which is more than max_weight "
                f"({options.max_weight:g}); split the item, or raise max_weight"
            )
    if options.dedupe is not None:
        dedupe_key = _dedupe_key(options.name, options.dedupe, item)
    elif not (priority or weight) and deadline is None:
        return NO_TERMS
    return Terms(priority=priority, deadline=deadline, weight=weight, dedupe_key=dedupe_key)


def same_key(value: Any) -> Any:
    """Return a key that is equal for two values only if they have equal value and type.

    `==` alone is not enough: `1 == True`, `0.0 == -0.0`, `Decimal("1.0") == Decimal("1.00")`, and
    one instant is equal in all time zones. So the type counts, in tuples and frozensets that of
    each element too. Numbers that are not rational, datetimes and times also need an equal `repr`.
    For all other objects their own `==` decides.
    """
    cls = type(value)
    if cls is str or cls is int or value is None:  # all other keys are tuples
        return value
    if isinstance(value, tuple):
        return cls, value, tuple(map(same_key, value))
    if isinstance(value, frozenset):
        return cls, value, frozenset(map(same_key, value))
    if isinstance(value, (Number, datetime, time)) and not isinstance(value, Rational):
        return cls, value, repr(value)
    return cls, value


def _dedupe_key(name: str, dedupe: Callable[[Any], Any], item: Any) -> Any:
    if dedupe is not identity:
        return same_key(hashable(name, "dedupe", dedupe(item)))
    try:
        hash(item)
    except TypeError:
        raise TypeError(
            f"{name}: dedupe=True needs hashable items, got {kind(item)}; "
            "write dedupe=function, where function(item) returns something hashable"
        ) from None
    return same_key(item)


def hashable(name: str, option: str, value: Any) -> Any:
    """Return `value`, which the `option` of the function `name` returned, if it can be hashed."""
    try:
        hash(value)
    except TypeError:
        raise TypeError(
            f"{name}: {option} must return something hashable, got {kind(value)}"
        ) from None
    return value


def _weight(name: str, value: Any) -> float:
    if isinstance(value, bool) or not hasattr(type(value), "__float__"):
        raise TypeError(f"{name}: weight must return a number, got {kind(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if math.isnan(number) or number < 0:
        raise ValueError(f"{name}: weight must return a number >= 0, got {number}")
    return number


def priority_of(value: Any) -> float:
    """Return the priority of a call as a float.

    Raises:
        TypeError: It is not a real number.
        ValueError: It is nan.
    """
    number = as_float(value)
    if number is None:
        raise TypeError(f"priority must be a number, got {kind(value)}")
    if math.isnan(number):
        raise ValueError("priority must be a number, got nan")
    return number


def check_extra(name: str, takes_more: bool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise TypeError for extra arguments that the function does not take."""
    if (args or kwargs) and not takes_more:
        raise TypeError(
            f"{name} takes one item and no extra arguments, got {len(args) + len(kwargs)}; "
            "give the function a parameter for each, or call it once per item"
        )


def extra_key(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the key of a call's extra arguments: only calls with equal keys share a batch.

    Raises:
        TypeError: An extra argument is not hashable.
    """
    if not kwargs:
        return same_key(args) if args else args
    try:
        return same_key(args), frozenset((word, same_key(value)) for word, value in kwargs.items())
    except TypeError as error:
        raise unhashable_extra(name, error) from None


def unhashable_extra(name: str, error: TypeError) -> TypeError:
    """Return the error for a call with extra arguments that are not hashable."""
    return TypeError(
        f"extra arguments of {name} must be hashable, because only calls with equal ones share a "
        f"batch: {error}; pass a tuple or a frozenset, or make them part of the item"
    )


def check_call(
    options: Options, takes_more: bool, item: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Check a call whose item is not queued in this process, as a call that queues it does.

    Raises:
        ItemTooHeavy: It weighs more than `max_weight`.
        TypeError: A wrong extra argument, or a wrong result of `key`, `weight` or `dedupe`.
        ValueError: The weight is negative or nan.
        Exception: Any error of the user's functions.
    """
    check_extra(options.name, takes_more, args, kwargs)
    try:
        hash(extra_key(options.name, args, kwargs))
    except TypeError as error:
        raise unhashable_extra(options.name, error) from None
    if options.key is not None:
        hashable(options.name, "key", options.key(item))
    if not options.is_plain:
        terms_of(options, item)
