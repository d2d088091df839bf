"""The threads, loops and memory of `batchify.testing.manual_clock` (contract 6)."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from typing import Any

import pytest

from batchify import Closed, QueueFull, batched
from batchify import clock as clocks
from batchify.engine import background
from tests.limits import LIMIT
from tests.manual import Gated, in_thread, until
from tests.testing_helpers import HELD, manual_clock

pytestmark = pytest.mark.usefixtures("patient")


# ---- what the clock applies to ----


def test_the_wait_for_capacity() -> None:
    gated = Gated()
    f = batched(gated, size=1, capacity=1)

    async def main() -> Any:
        future = f.options(timeout=3)("on a loop")
        await clock.aadvance(2.9)
        assert not future.done()
        await clock.aadvance(0.2)
        assert future.done()
        return future.exception(0)

    with manual_clock(patience=HELD) as clock:
        f("holds")
        gated.wait_started(1)
        call = in_thread(lambda: f.options(timeout=3)("waits"))
        until(lambda: f.stats().submitted == 2)
        until(lambda: clock._seam.next_due(3) == 3)  # it sleeps
        clock.advance(2.9)
        assert not call.is_done()
        clock.advance(0.1)
        with pytest.raises(QueueFull):
            call.result()
        assert isinstance(asyncio.run(main()), QueueFull)
        gated.open()


# ---- batches that are held ----


def test_a_worker_is_excluded_for_one_batch_only() -> None:
    gated = Gated()
    f = batched(gated, size=1)
    with manual_clock(patience=0) as clock:
        for n in range(2):
            f(n)
        clock.advance(0)
        seam = clock._seam
        assert not seam.is_at_rest()
        assert seam.leave_alone(everybody=False)
        assert seam.is_at_rest()
        gated.release()
        gated.wait_started(2)
        assert not seam.is_at_rest()
        gated.open()


# ---- event loops ----


def test_a_background_loop_that_is_just_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run(items: list[Any]) -> list[Any]:
        return items

    def run_late() -> None:
        time.sleep(0.05)
        real()

    real = background._run_forever
    monkeypatch.setattr(background, "_run_forever", run_late)
    monkeypatch.setattr(background, "_background", None)
    f: Any = batched(run, linger=1)
    with manual_clock() as clock:
        future = f(1)
        clock.advance(1)
        assert future.result(0) == 1


# ---- its end ----


def test_nothing_is_kept_after_its_end() -> None:
    async def run(items: list[Any]) -> list[Any]:
        return items

    f: Any = batched(lambda items: items, linger=5)
    g: Any = batched(run, linger=5)

    class Item:
        pass

    with manual_clock() as clock:
        items = [Item(), Item()]
        weak = [weakref.ref(item) for item in items]
        f(items[0])
        g.options(deadline=9)(items[1])
        del items
        clock.advance(1)
        engines = [weakref.ref(one._scope()) for one in (f, g)]
    gc.collect()
    assert [one() for one in [*weak, *engines]] == [None] * 4
    assert clock._seam.next_due(1e9) is None


def test_a_hung_batch_does_not_delay_the_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clocks, "MIN_EXIT_WAIT", HELD)
    gated = Gated()
    f = batched(gated, size=1, name="hangs")
    clock = manual_clock(patience=0)
    clock.__enter__()
    futures = [f(n) for n in range(3)]
    clock.advance(0)
    with pytest.warns(RuntimeWarning, match="hangs: 2 items"):
        clock.__exit__()
    assert [isinstance(future.exception(0), Closed) for future in futures[1:]] == [True, True]
    gated.open()
    assert futures[0].result(LIMIT) == ("done", 0)
