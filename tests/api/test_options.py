"""The options of `batched`: refused and accepted values, and the defaults (contract 2, 8)."""

from __future__ import annotations

import asyncio
import functools
import math
import threading
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from batchify import batched
from tests.limits import LIMIT

HUGE_LINGERS = [
    pytest.param(1e300, id="1e300"),
    pytest.param(10**400, id="10**400"),
    pytest.param(timedelta.max, id="timedelta.max"),
]


def echo(items: list[Any]) -> list[Any]:
    return items


def forms(function: Callable[..., Any], **options: Any) -> list[Callable[[], Any]]:
    """Decorate `function` in every way, with options."""
    return [
        lambda: batched(**options)(function),
        lambda: batched(function, **options),
    ]


# ---- the three forms ----


def test_plain_decorator() -> None:
    @batched
    def double(items: list[int]) -> list[int]:
        return [2 * item for item in items]

    assert double(2).result(LIMIT) == 4


def test_decorator_with_options() -> None:
    @batched(size=7, linger=0)
    def double(items: list[int]) -> list[int]:
        return [2 * item for item in items]

    assert double.size == 7
    assert double(2).result(LIMIT) == 4


def test_call_with_function_and_options() -> None:
    double = batched(lambda items: [2 * item for item in items], size=7)
    assert double.size == 7
    assert double(2).result(LIMIT) == 4


def test_decorator_without_any_option() -> None:
    assert batched()(echo)(1).result(LIMIT) == 1


def test_one_decorator_with_options_serves_several_functions() -> None:
    by_seven = batched(size=7)
    first, second = by_seven(echo), by_seven(len)
    assert (first.size, second.size) == (7, 7)
    assert first is not second


def test_options_are_keywords_only() -> None:
    with pytest.raises(TypeError):
        batched(echo, 64)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "what", [3, "echo", int, list, object()], ids=["3", "echo", "int", "list", "object"]
)
def test_only_functions_can_be_decorated(what: Any) -> None:
    for decorate in forms(what, size=2):
        with pytest.raises(TypeError, match="batched needs a function"):
            decorate()
    with pytest.raises(TypeError):
        batched(what)


@pytest.mark.parametrize(
    "option",
    ["sise", "max_size", "timeout", "callback"]
    # Of the contract, and still to come: refused until they do something.
    + ["executor", "broker"],
)
def test_an_unknown_option_is_refused(option: str) -> None:
    with pytest.raises(TypeError, match=option):
        batched(**{option: 1})
    with pytest.raises(TypeError, match=option):
        batched(echo, **{option: 1})


# ---- defaults ----


def test_defaults() -> None:
    f = batched(echo)
    assert (f.size, f.linger, f.workers, f.capacity) == (64, 0.0, 1, 10_000)


@pytest.mark.parametrize(
    ("size", "workers", "capacity"),
    [(64, 1, 10_000), (5_000, 1, 10_000), (5_001, 1, 10_002), (100, 100, 20_000), (1, 1, 10_000)],
)
def test_default_capacity_is_at_least_two_batches_for_each_worker(
    size: int, workers: int, capacity: int
) -> None:
    assert batched(echo, size=size, workers=workers).capacity == capacity


def test_options_read_back() -> None:
    f = batched(echo, size=3, linger=2, workers=4, capacity=5)
    assert (f.size, f.linger, f.workers, f.capacity) == (3, 2.0, 4, 5)
    assert isinstance(f.linger, float)


def test_options_read_back_on_a_method() -> None:
    class Repository:
        @batched(size=3, linger=None, workers=4, capacity=None)
        def insert(self, rows: list[int]) -> list[int]:
            return rows

    f = Repository().insert
    assert (f.size, f.linger, f.workers, f.capacity) == (3, None, 4, None)


@pytest.mark.parametrize(
    "accepted",
    [
        {"size": 1},
        {"size": 10**30},
        {"workers": 10**6},
        {"linger": 0},
        {"linger": -0.0},
        {"linger": 5e-324},
        {"linger": timedelta.resolution},
        {"capacity": None},
        {"size": 10, "capacity": 10},
        {"on_error": None},
        {"on_error": print},
        {"exit_timeout": 0},
        {"exit_timeout": timedelta(minutes=1)},
        {"exit_timeout": 1e300},
        {"exit_timeout": timedelta.max},
        {"name": None},
        {"name": "inserts"},
    ],
    ids=str,
)
def test_values_at_the_edge_are_accepted(accepted: dict[str, Any]) -> None:
    for decorate in forms(echo, **accepted):
        assert decorate()(1).result(LIMIT) == 1


# ---- refused values ----


WRONG_TYPES = [
    *[("size", value) for value in (True, False, 2.0, math.nan, "2", None, [2], Decimal(2))],
    *[("workers", value) for value in (True, 1.5, "1", None, (1,))],
    *[("capacity", value) for value in (True, 1e4, math.inf, "100", [100])],
    *[("linger", value) for value in (True, False, "0.01", 1j, [1], Decimal(1))],
    *[("exit_timeout", value) for value in (True, "30", None, [30])],
    *[("on_error", value) for value in (True, "print", 3, [print])],
    *[("name", value) for value in (True, b"name", 3, ["name"])],
]
WRONG_VALUES = [
    *[("size", value) for value in (0, -1, -(10**30))],
    *[("workers", value) for value in (0, -1)],
    *[("capacity", value) for value in (0, -1, 1, 63)],
    *[("linger", value) for value in (math.nan, math.inf, -math.inf, -1, -1e-9, -(10**400))],
    *[("linger", value) for value in (timedelta(seconds=-1), timedelta.min)],
    *[("exit_timeout", value) for value in (math.nan, -1, timedelta(seconds=-1))],
    ("name", ""),
]


@pytest.mark.parametrize(("option", "value"), WRONG_TYPES)
def test_a_wrong_type_is_a_type_error_that_names_the_option(option: str, value: Any) -> None:
    for decorate in forms(echo, **{option: value}):
        with pytest.raises(TypeError, match=f"^{option} must be"):
            decorate()


@pytest.mark.parametrize(
    ("option", "value"), WRONG_VALUES, ids=[f"{name}={str(v)[:20]}" for name, v in WRONG_VALUES]
)
def test_a_wrong_value_is_a_value_error_that_names_the_option(option: str, value: Any) -> None:
    for decorate in forms(echo, **{option: value}):
        with pytest.raises(ValueError, match=f"^{option} must"):
            decorate()


@pytest.mark.parametrize(("option", "value"), [("size", 0), ("linger", -1), ("size", True)])
def test_options_are_checked_before_there_is_a_function(option: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=option):
        batched(**{option: value})


@pytest.mark.parametrize(("size", "capacity"), [(64, 63), (2, 1), (10**6, 10**6 - 1)])
def test_capacity_below_size_is_refused(size: int, capacity: int) -> None:
    with pytest.raises(ValueError, match=rf"^capacity must be >= size \({size}\)"):
        batched(echo, size=size, capacity=capacity)


def test_infinite_linger_is_refused_with_a_hint() -> None:
    with pytest.raises(ValueError, match=r"linger.*None"):
        batched(echo, linger=math.inf)


def test_messages_name_a_wrong_type_and_never_show_its_content() -> None:
    with pytest.raises(TypeError, match=r"got str$") as caught:
        batched(echo, size="hunter2")  # type: ignore[call-overload]
    assert "hunter2" not in str(caught.value)


# ---- lingers ----


@pytest.mark.parametrize(
    ("linger", "seconds"),
    [
        (timedelta(milliseconds=10), 0.01),
        (timedelta(0), 0.0),
        (timedelta(days=2), 172_800.0),
        (3, 3.0),
        (0.25, 0.25),
    ],
)
def test_linger_reads_as_seconds(linger: Any, seconds: float) -> None:
    f = batched(echo, linger=linger)
    assert f.linger == seconds
    assert isinstance(f.linger, float)


@pytest.mark.parametrize("linger", HUGE_LINGERS)
def test_huge_lingers_work_in_threads(linger: Any) -> None:
    f = batched(echo, size=2, linger=linger)
    assert f.linger is not None
    assert math.isfinite(f.linger)
    first, second = f(1), f(2)
    assert (first.result(LIMIT), second.result(LIMIT)) == (1, 2)
    alone = f(3)
    f.flush(LIMIT)
    assert alone.result(0) == 3
    reasons = {reason: count for reason, count in f.stats().reasons.items() if count}
    assert reasons == {"size": 1, "flush": 1}
    f.close(LIMIT)


@pytest.mark.parametrize("linger", HUGE_LINGERS)
def test_huge_lingers_work_on_a_loop(linger: Any) -> None:
    @batched(size=2, linger=linger)
    async def f(items: list[int]) -> list[int]:
        return items

    async def main() -> None:
        first, second = f(1), f(2)
        assert (await first, await second) == (1, 2)
        alone = f(3)
        await f.aflush(LIMIT)
        assert alone.result(0) == 3
        reasons = {reason: count for reason, count in f.stats().reasons.items() if count}
        assert reasons == {"size": 1, "flush": 1}
        await f.aclose(LIMIT)

    asyncio.run(main())


def test_linger_none_dispatches_only_when_asked() -> None:
    f = batched(echo, size=2, linger=None)
    assert f.linger is None
    alone = f(1)
    f.flush(LIMIT)
    assert alone.result(0) == 1
    assert f.stats().reasons["flush"] == 1


# ---- time limits of calls are checked the same way ----


@pytest.mark.parametrize("call", ["options", "flush", "close"])
@pytest.mark.parametrize(
    ("timeout", "error"),
    [(True, TypeError), ("1", TypeError), (-1, ValueError), (math.nan, ValueError)],
)
def test_a_wrong_timeout_is_refused(call: str, timeout: Any, error: type[Exception]) -> None:
    f = batched(echo)
    with pytest.raises(error, match=r"^timeout must be"):
        getattr(f, call)(timeout=timeout)
    assert f(1).result(LIMIT) == 1  # nothing was closed by it


@pytest.mark.parametrize("timeout", HUGE_LINGERS)
def test_huge_timeouts_work(timeout: Any) -> None:
    f = batched(echo, linger=None)
    future = f.options(timeout=timeout)(1)
    f.flush(timeout=timeout)
    assert future.result(0) == 1
    future = f(2)
    f.close(timeout=timeout)
    assert future.result(0) == 2


# ---- names ----


def thread_name(items: list[int]) -> list[str]:
    return [threading.current_thread().name] * len(items)


@pytest.mark.parametrize("options", [{}, {"name": None}])
def test_default_name_is_the_qualified_name_of_the_function(options: dict[str, Any]) -> None:
    for decorate in forms(thread_name, **options):
        assert ":thread_name:" in decorate()(1).result(LIMIT)

    def local(items: list[int]) -> list[str]:
        return thread_name(items)

    qualified = f"{test_default_name_is_the_qualified_name_of_the_function.__name__}.<locals>.local"
    for decorate in forms(local, **options):
        assert qualified in decorate()(1).result(LIMIT)


def test_default_name_of_a_partial_and_of_a_callable_object() -> None:
    class Callable_:
        def __call__(self, items: list[int]) -> list[str]:
            return thread_name(items)

    assert "thread_name" in batched(functools.partial(thread_name))(1).result(LIMIT)
    assert "Callable_" in batched(Callable_())(1).result(LIMIT)


def test_name_is_used_in_thread_names() -> None:
    for decorate in forms(thread_name, name="nightly inserts"):
        assert "nightly inserts" in decorate()(1).result(LIMIT)
