"""Which values the options accept (contract 2 and 8): integers, unlimited times, run time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from batchify import Retry, batched

FIXED = [
    "key", "weight", "max_weight", "dedupe", "isolate", "on_error", "executor", "broker",
    "exit_timeout", "name",
]  # fmt: skip


def echo(items: list[Any]) -> list[Any]:
    return items


class Index:
    """An integer type of another library."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


class Store:
    @batched
    def save(self, items: list[Any]) -> list[Any]:
        return items


# ---- integers ----


@pytest.mark.parametrize("option", ["size", "workers", "capacity"])
def test_other_integer_types_are_accepted(option: str) -> None:
    f = batched(echo, **{option: Index(100)})
    assert getattr(f, option) == 100
    assert type(getattr(f, option)) is int
    setattr(f, option, Index(200))
    assert getattr(f, option) == 200
    assert f(1).result(60) == 1


def test_numpy_numbers_are_accepted() -> None:
    numpy = pytest.importorskip("numpy")
    f = batched(
        echo, size=numpy.int64(7), linger=numpy.float32(0.5), workers=numpy.uint8(2),
        capacity=numpy.int32(100), exit_timeout=numpy.int64(3),
    )  # fmt: skip
    assert (f.size, f.linger, f.workers, f.capacity) == (7, 0.5, 2, 100)
    assert [type(value) for value in (f.size, f.linger)] == [int, float]
    view = f.options(timeout=numpy.float64(1), deadline=numpy.int64(60), priority=numpy.float32(1))
    assert view(1).result(60) == 1
    assert list(f.map([1, 2], window=numpy.int64(2))) == [1, 2]


def test_numpy_booleans_are_refused() -> None:
    numpy = pytest.importorskip("numpy")
    for option in ("size", "workers", "capacity", "linger"):
        with pytest.raises(TypeError, match=f"^{option} must be"):
            batched(echo, **{option: numpy.True_})


@pytest.mark.parametrize("option", ["size", "workers", "capacity", "linger", "exit_timeout"])
def test_a_bool_is_no_number(option: str) -> None:
    with pytest.raises(TypeError, match=rf"^{option} must be .*got bool$"):
        batched(echo, **{option: True})


def test_a_type_whose_index_raises_is_refused() -> None:
    class Broken:
        def __index__(self) -> int:
            raise TypeError("no integer")

    with pytest.raises(TypeError, match=r"^size must be an int >= 1, got Broken$"):
        batched(echo, size=Broken())


@pytest.mark.parametrize("value", [Fraction(1, 4), Index(2), 2, 0.25])
def test_real_numbers_are_times(value: Any) -> None:
    f = batched(echo, linger=value)
    assert type(f.linger) is float


@pytest.mark.parametrize("value", [Decimal(1), "1", 1j, [1]])
def test_other_types_are_no_times(value: Any) -> None:
    with pytest.raises(
        TypeError, match=r"^linger must be a number of seconds, a timedelta or None"
    ):
        batched(echo, linger=value)


def test_retry_takes_the_same_numbers() -> None:
    assert Retry(after=Fraction(1, 2), attempts=Index(2)).after == 0.5  # type: ignore[arg-type]
    assert Retry(attempts=Index(2)).attempts == 2  # type: ignore[arg-type]


# ---- no limit ----

INFINITE = [math.inf, float("inf"), None]


@pytest.mark.parametrize("limit", INFINITE)
def test_inf_means_no_limit_in_threads(limit: float | None) -> None:
    f = batched(echo, linger=None, capacity=64)
    future = f.options(timeout=limit, deadline=limit)(1)
    f.flush(limit)
    assert future.result(limit) == 1
    assert future.exception(limit) is None
    waiting = [f.options(timeout=limit, deadline=limit)(n) for n in range(100)]
    f.flush(timeout=limit)
    assert [future.result(timeout=limit) for future in waiting] == list(range(100))
    f(2)
    f.close(limit)
    assert f.stats().succeeded == 102


@pytest.mark.parametrize("limit", INFINITE)
def test_inf_means_no_limit_on_a_loop(limit: float | None) -> None:
    @batched(capacity=64)
    async def f(items: list[int]) -> list[int]:
        return items

    async def main() -> None:
        futures = [f.options(timeout=limit, deadline=limit)(n) for n in range(100)]
        await f.aflush(limit)
        assert await asyncio.gather(*futures) == list(range(100))
        admitted = await f.options(timeout=limit, deadline=limit).asubmit(1)
        await f.aclose(limit)
        assert await admitted == 1

    asyncio.run(main())


def test_inf_in_the_exit_timeout_means_no_limit() -> None:
    assert batched(echo, exit_timeout=math.inf)(1).result(60) == 1


def test_inf_as_linger_is_refused_with_the_way_to_say_it() -> None:
    f = batched(echo)
    for change in (lambda: batched(echo, linger=math.inf), lambda: setattr(f, "linger", math.inf)):
        with pytest.raises(ValueError, match=r"^linger must be finite, got inf; write None"):
            change()


@pytest.mark.parametrize("value", [math.nan, -math.inf, -1, timedelta(seconds=-1)])
def test_other_times_out_of_range_are_refused(value: Any) -> None:
    f = batched(echo)
    calls: list[Callable[[], Any]] = [
        lambda: f.options(timeout=value),
        lambda: f.flush(value),
        lambda: f.close(value),
        lambda: asyncio.run(f.aflush(value)),
        lambda: asyncio.run(f.aclose(value)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"^timeout must be >= 0, got "):
            call()
    with pytest.raises(ValueError, match=r"^deadline must be >= 0, got "):
        f.options(deadline=value)
    assert f(1).result(60) == 1  # nothing was closed by it


# ---- options that are planned or removed ----


@pytest.mark.parametrize("option", ["size", "linger", "workers"])
def test_auto_is_not_supported_yet(option: str) -> None:
    f = batched(echo)
    for change in (
        lambda: batched(echo, **{option: "auto"}),
        lambda: setattr(f, option, "auto"),
    ):
        with pytest.raises(TypeError, match=rf'^{option} must be .*"auto" is not supported yet'):
            change()


@pytest.mark.parametrize("url", ["sqlite:///queue.db", "redis://user:hunter2@host/0"])
def test_a_broker_url_is_not_supported_yet(url: str) -> None:
    with pytest.raises(TypeError, match=r"^broker must be .*got str \(URLs are not") as caught:
        batched(echo, broker=url)  # type: ignore[call-overload]
    assert "hunter2" not in str(caught.value)


# ---- at run time ----


@pytest.mark.parametrize("option", FIXED)
@pytest.mark.parametrize("lookup", [lambda: batched(echo), lambda: Store().save])
def test_an_option_that_cannot_be_changed_is_refused(
    option: str, lookup: Callable[[], Any]
) -> None:
    f = lookup()
    expected = rf"^{option} of (echo|Store\.save) cannot be changed at run time: size, linger"
    with pytest.raises(AttributeError, match=expected):
        setattr(f, option, len)
    with pytest.raises(AttributeError, match=expected):
        delattr(f, option)
    assert not hasattr(f, option)
    assert not hasattr(echo, option)
    assert f(1).result(60) == 1


def test_the_attributes_of_the_function_are_read_as_ever() -> None:
    def f(items: list[Any]) -> list[Any]:
        return items

    f.name = "mine"  # type: ignore[attr-defined]
    assert batched(f).name == "mine"  # type: ignore[attr-defined]


@pytest.mark.parametrize("lookup", [lambda: batched(echo), lambda: Store().save])
@pytest.mark.parametrize(
    ("option", "value"), [("size", 7), ("linger", 0.5), ("workers", 3), ("capacity", 500)]
)
def test_the_other_options_are_changed(lookup: Callable[[], Any], option: str, value: Any) -> None:
    f = lookup()
    setattr(f, option, value)
    assert getattr(f, option) == value
    with pytest.raises(AttributeError, match=option):
        delattr(f, option)
    assert f(1).result(60) == 1


def test_other_attributes_go_to_the_function_as_frameworks_expect() -> None:
    def route(items: list[Any]) -> list[Any]:
        return items

    f: Any = batched(route)
    f.short_description = "Insert"
    assert route.short_description == "Insert"  # type: ignore[attr-defined]
    del f.short_description
    assert not hasattr(route, "short_description")
