"""Only items and extra arguments of equal value and type count as the same."""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Callable
from datetime import UTC, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import pytest

from batchify import batched
from batchify.terms import same_key
from batchify.testing import eager


class Point(NamedTuple):
    x: Any
    y: Any


class Color(enum.IntEnum):
    RED = 1


class Name(str):
    __slots__ = ()


@dataclasses.dataclass(frozen=True)
class Price:
    amount: Decimal


NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
BERLIN = timezone(timedelta(hours=2))

DIFFERENT = [
    (1, True),
    (0, False),
    (1, 1.0),
    (1, Color.RED),
    (1, Fraction(1)),
    (1.0, 1 + 0j),
    (0.0, -0.0),
    (complex(0, 0.0), complex(0, -0.0)),
    ("a", Name("a")),
    (Decimal("1.0"), Decimal("1.00")),
    (Decimal(1), 1),
    (NOON, NOON.astimezone(BERLIN)),
    (NOON, NOON.replace(tzinfo=timezone(timedelta(0), "GMT"))),
    (datetime(2024, 10, 27, 2, 30), datetime(2024, 10, 27, 2, 30, fold=1)),
    (time(12, tzinfo=UTC), time(14, tzinfo=BERLIN)),
    ((1, 2), (True, 2)),
    ((1, (2, (3,))), (1, (2, (3.0,)))),
    ((1, 2), Point(1, 2)),
    (Point(1, 2), Point(1, 2.0)),
    (frozenset({1}), frozenset({True})),
    (frozenset({(1, 2)}), frozenset({(1.0, 2)})),
]

SAME: list[Callable[[], Any]] = [
    lambda: 10**30,
    lambda: "text" * 2,
    lambda: b"bytes",
    lambda: None,
    lambda: True,
    lambda: 0.1,
    lambda: Decimal("1.50"),
    lambda: Fraction(1, 3),
    lambda: datetime(2024, 5, 1, 12, tzinfo=UTC),
    lambda: datetime(2024, 5, 1, 12),
    lambda: time(1, 2),
    lambda: timedelta(seconds=1),
    lambda: Color.RED,
    lambda: (1, ("a", 2.0)),
    lambda: Point("a", frozenset({1, "b"})),
    lambda: Price(Decimal("1.0")),
    lambda: math.nan,  # one object
]


def of(pair: tuple[Any, Any]) -> str:
    return " and ".join(map(repr, pair))


@pytest.mark.parametrize("pair", DIFFERENT, ids=of)
def test_equal_values_that_are_not_the_same(pair: tuple[Any, Any]) -> None:
    one, other = pair
    assert one == other
    assert same_key(one) != same_key(other)


@pytest.mark.parametrize("make", SAME)
def test_the_same_made_twice(make: Callable[[], Any]) -> None:
    assert same_key(make()) == same_key(make())
    assert hash(same_key(make())) == hash(same_key(make()))


def test_other_objects_decide_themselves() -> None:
    """Inside an object its own `==` counts."""
    assert same_key(Price(Decimal("1.0"))) == same_key(Price(Decimal("1.00")))
    assert same_key(math.nan) != same_key(float("nan"))


def test_no_repr_is_called_where_it_says_nothing() -> None:
    class Silent:
        def __repr__(self) -> str:
            raise AssertionError

    silent = Silent()
    assert same_key(silent) == same_key(silent)
    assert same_key((silent, 10**6000)) == same_key((silent, 10**6000))


# ---- extra arguments ----


def options_of(
    items: list[Any], *args: Any, option: Any = None, other: Any = None
) -> list[tuple[int, str]]:
    return [(len(items), repr((args, option, other)))] * len(items)


async def options_of_async(
    items: list[Any], *args: Any, option: Any = None, other: Any = None
) -> list[tuple[int, str]]:
    return options_of(items, *args, option=option, other=other)


@pytest.mark.parametrize("pair", DIFFERENT, ids=of)
@pytest.mark.parametrize("function", [options_of, options_of_async])
def test_extra_arguments_reach_the_function_as_each_caller_gave_them(
    pair: tuple[Any, Any], function: Any
) -> None:
    f = batched(function, linger=None)
    one, other = pair
    by_name = [f(0, option=one), f(0, option=other), f(0, option=one)]
    by_place = [f(0, one), f(0, other), f(0, one)]
    f.flush()
    expected = [(n, repr(((), value, None))) for n, value in ((2, one), (1, other), (2, one))]
    assert [future.result() for future in by_name] == expected
    expected = [(n, repr(((value,), None, None))) for n, value in ((2, one), (1, other), (2, one))]
    assert [future.result() for future in by_place] == expected
    f.close()


def test_the_order_of_keywords_does_not_matter() -> None:
    f = batched(options_of, linger=None)
    futures = [f(0, option=1, other=(2, "x")), f(0, other=(2, "x"), option=1)]
    f.flush()
    assert [future.result()[0] for future in futures] == [2, 2]
    f.close()


def test_by_place_and_by_name_are_different_calls() -> None:
    def function(items: list[int], option: int = 0) -> list[int]:
        return [len(items)] * len(items)

    f = batched(function, linger=None)
    futures = [f(0, 1), f(0, option=1), f(0)]
    f.flush()
    assert [future.result() for future in futures] == [1, 1, 1]
    f.close()


@pytest.mark.parametrize("value", [[], ([],), (1, ({},)), {"a": 1}], ids=repr)
@pytest.mark.parametrize("how", ["place", "name"])
@pytest.mark.parametrize("is_eager", [False, True])
def test_unhashable_extra_arguments_name_the_function(value: Any, how: str, is_eager: bool) -> None:
    f = batched(options_of, name="insert_users")

    def call() -> None:
        with pytest.raises(TypeError, match="extra arguments of insert_users must be hashable"):
            f(0, value) if how == "place" else f(0, option=value)

    if is_eager:
        with eager():
            call()
    else:
        call()
        assert (f.stats().submitted, f.stats().rejected) == (1, 1)
        assert f(0, option=1).result()[0] == 1
    f.close()


def test_keys_are_equal_or_not_as_python_says() -> None:
    """`key` decides which items share a batch, so it may return equal values of several types."""
    f = batched(lambda items: [len(items)] * len(items), linger=None, key=lambda item: item)
    futures = [f(1), f(True), f(1.0), f(2)]
    f.flush()
    assert [future.result() for future in futures] == [3, 3, 3, 1]
    f.close()


# ---- dedupe ----


@pytest.mark.parametrize("pair", DIFFERENT, ids=of)
@pytest.mark.parametrize("dedupe", [True, lambda item: item, lambda item: ("id", item)])
def test_dedupe_leaves_every_caller_its_own_item(pair: tuple[Any, Any], dedupe: Any) -> None:
    def function(items: list[Any]) -> list[tuple[int, str]]:
        return [(len(items), repr(item)) for item in items]

    f = batched(function, linger=None, dedupe=dedupe)
    futures = [f(item) for item in (*pair, *pair)]
    f.flush()
    assert [future.result() for future in futures] == [(2, repr(item)) for item in (*pair, *pair)]
    assert f.stats().deduplicated == 2
    f.close()


def test_dedupe_names_the_type_of_what_cannot_be_hashed() -> None:
    f = batched(lambda items: items, dedupe=lambda item: [item])
    with pytest.raises(TypeError, match="dedupe must return something hashable, got list"):
        f(1)
    g = batched(lambda items: items, dedupe=True)
    with pytest.raises(TypeError, match="got list"):
        g([1])
