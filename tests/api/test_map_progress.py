"""Progress bars and other wrappers of what `map` and `amap` iterate over (contract 3)."""

from __future__ import annotations

import gc
import itertools
import logging
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

import pytest

from batchify import batched
from tests.api.sources import (
    AsyncSource,
    Awaited,
    OnlySized,
    SizedSource,
    Source,
    any_order,
    any_source,
    check_idle,
    done,
    echo,
    run,
)
from tests.manual import Gated


@any_order
def test_any_wrapper_shows_progress(ordered: bool) -> None:
    seen: list[Any] = []
    totals: list[int | None] = []

    def wrapper(iterable: Any) -> Iterator[Any]:
        totals.append(len(iterable) if hasattr(iterable, "__len__") else None)
        for thing in iterable:
            seen.append(thing)
            yield thing

    f = batched(echo, size=4)
    for items, total in [
        (range(10), 10),
        (set(range(10)), 10),
        (SizedSource(range(10)), 10),
        (OnlySized(range(10)), 10),
        (iter(range(10)), None),
        (Source(range(10)), None),
    ]:
        got = list(f.map(items, ordered=ordered, progress=wrapper))
        assert sorted(got) == done(range(10))
        assert seen == got
        assert totals.pop() == total, type(items)
        seen.clear()


def test_a_wrapper_is_lazy_and_leaving_early_cancels() -> None:
    gated = Gated()
    gated.release()
    f = batched(gated, size=2)
    items = Source(itertools.count())
    results = f.map(items, window=10, progress=lambda iterable: (x for x in iterable))
    assert items.pulled == 0
    assert next(results) == ("done", 0)
    del results
    gc.collect()
    pending = f.stats().pending
    gated.open()
    assert pending == 0
    check_idle(f)


@any_source
def test_a_wrapper_that_raises(source: Any) -> None:
    def wrapper(iterable: Any) -> Iterator[Any]:
        yield next(iter(iterable))
        raise LookupError

    gated = Gated()
    gated.release()
    f = batched(gated, size=2)
    results = f.map(source(range(20)), window=10, progress=wrapper)
    assert next(results) == ("done", 0)
    with pytest.raises(LookupError):
        next(results)
    pending = f.stats().pending
    gated.open()
    assert pending == 0


def test_a_bar_by_tqdm(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    f = batched(echo, size=4)
    assert list(f.map(range(10), progress=True)) == done(range(10))
    assert "10/10" in capsys.readouterr().err
    assert list(f.map(iter(range(10)), progress=True, ordered=False)) != []
    assert "10it" in capsys.readouterr().err
    results = f.map(itertools.count(), progress=True)
    next(results)
    results.close()
    check_idle(f)


@any_order
def test_a_bar_by_tqdm_in_a_coroutine(capsys: pytest.CaptureFixture[str], ordered: bool) -> None:
    pytest.importorskip("tqdm")

    async def main() -> None:
        f = batched(echo, size=4)
        for items, shown in [
            (range(10), "10/10"),
            (iter(range(10)), "10it"),
            (AsyncSource(range(10)), "10it"),
        ]:
            got = [x async for x in f.amap(items, progress=True, ordered=ordered)]
            assert sorted(got) == done(range(10))
            assert shown in capsys.readouterr().err
        results = f.amap(itertools.count(), progress=True)
        await anext(results)
        await results.aclose()
        assert f.stats().pending == 0

    run(main())


def test_a_wrapper_of_async_iterables() -> None:
    totals = []

    async def wrapper(iterable: Any) -> AsyncIterator[Any]:
        totals.append(len(iterable) if hasattr(iterable, "__len__") else None)
        async for thing in iterable:
            yield thing

    async def main() -> None:
        f = batched(echo, size=4)
        for items in (range(10), AsyncSource(range(10))):
            assert [x async for x in f.amap(items, progress=wrapper)] == done(range(10))
        assert totals == [10, None]

    run(main())


class PlainBar:
    """As tqdm's own class: for plain iterables, and closed at the end, however that comes."""

    made: ClassVar[list[PlainBar]] = []

    def __init__(self, iterable: Any) -> None:
        self.iterable = iterable
        self.total = len(iterable) if hasattr(iterable, "__len__") else None
        self.shown = 0
        self.is_closed = False
        self.made.append(self)

    def __iter__(self) -> Iterator[Any]:
        try:
            for thing in self.iterable:
                yield thing
                self.shown += 1
        finally:
            self.is_closed = True


@any_order
def test_a_wrapper_of_plain_iterables_in_a_coroutine(ordered: bool) -> None:
    async def main() -> None:
        f = batched(echo, size=4)
        for items, total in [(range(10), 10), (iter(range(10)), None), (AsyncSource([]), None)]:
            got = [x async for x in f.amap(items, progress=PlainBar, ordered=ordered)]
            bar = PlainBar.made.pop()
            assert sorted(got) == done(range(bar.shown))
            assert (bar.total, bar.is_closed) == (total, True)
        got = [x async for x in f.amap(AsyncSource(range(10)), progress=PlainBar)]
        assert got == done(range(10))
        assert PlainBar.made.pop().shown == 10

    run(main())


def test_wrappers_of_plain_iterables_that_others_made(capsys: pytest.CaptureFixture[str]) -> None:
    tqdm = pytest.importorskip("tqdm").tqdm
    rich = pytest.importorskip("rich.progress")
    f = batched(echo, size=4)

    async def main(wrapper: Any) -> list[Any]:
        return [x async for x in f.amap(range(10), progress=wrapper)]

    for wrapper, shown in [(tqdm, "10/10"), (rich.track, "100%")]:
        assert list(f.map(range(10), progress=wrapper)) == done(range(10))
        assert shown in "".join(capsys.readouterr())
        assert run(main(wrapper)) == done(range(10))
        assert shown in "".join(capsys.readouterr())


@pytest.mark.parametrize("leave", ["close", "raise", "end"])
def test_leaving_a_plain_wrapper_early_in_a_coroutine(leave: str) -> None:
    def wrapper(iterable: Any) -> Iterator[Any]:
        bar = iter(PlainBar(iterable))
        try:
            yield next(bar)
            if leave == "raise":
                raise LookupError
        finally:
            bar.close()  # type: ignore[attr-defined]

    async def main() -> None:
        awaited = Awaited(is_open=True)
        f = batched(awaited, size=2)
        results = f.amap(AsyncSource(itertools.count()), window=10, progress=wrapper)
        assert await anext(results) == ("done", 0)
        if leave == "close":
            await results.aclose()
        elif leave == "raise":
            with pytest.raises(LookupError):
                await anext(results)
        else:
            assert [x async for x in results] == []
        assert PlainBar.made.pop().is_closed
        assert f.stats().pending == 0

    run(main())


def test_an_error_goes_by_a_plain_wrapper_in_a_coroutine() -> None:
    async def main() -> None:
        f = batched(lambda items: [LookupError() if item else item for item in items])
        results = f.amap(range(3), progress=PlainBar)
        assert await anext(results) == 0
        with pytest.raises(LookupError):
            await anext(results)
        assert PlainBar.made.pop().is_closed

    run(main())


def test_without_tqdm_it_continues_without_a_bar(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "tqdm"] + ["tqdm.auto"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    f = batched(echo, size=4)
    with caplog.at_level(logging.DEBUG):
        assert list(f.map(range(10), progress=True)) == done(range(10))
    assert capsys.readouterr().err == ""
    assert all(record.name == "batchify" for record in caplog.records)

    async def main() -> None:
        assert [x async for x in f.amap(range(10), progress=True)] == done(range(10))

    run(main())
