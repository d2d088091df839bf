"""Functions that are busy until the test opens them, in threads or on a loop, and their clock."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from collections.abc import Iterator
from typing import Any

from batchify import Stats, batched
from tests.manual import Gated, ManualSeam, batched_with, until

SOON = 0.05  # seconds: a deadline that is waited for
LATER = 3600.0  # seconds: one that never comes


class AsyncGated(Gated):
    """The same as `async def`, on whatever loop."""

    async def __call__(self, items: list[Any]) -> list[Any]:  # type: ignore[override]
        with self.changed:
            self.batches.append(list(items))
            self.changed.notify_all()
        while not self._may_end():
            await asyncio.sleep(0.001)
        return [("done", item) for item in items]

    def _may_end(self) -> bool:
        with self.changed:
            if not self.is_open and self.permits:
                self.permits -= 1
                return True
            return self.is_open


def gated_of(kind: str, *, is_open: bool = False) -> Gated:
    return Gated(is_open=is_open) if kind == "def" else AsyncGated(is_open=is_open)


def busy(kind: str = "def", **options: Any) -> tuple[Any, Gated]:
    """Return a function whose only worker runs the batch [0]."""
    gated = gated_of(kind)
    f = batched(gated, **options)
    f(0)
    gated.wait_started(1)
    return f, gated


def busy_on(seam: ManualSeam, **options: Any) -> tuple[Any, Gated]:
    """Return the function on a manual clock."""
    gated = Gated()
    f = batched_with(seam, gated, **options)
    f(0)
    gated.wait_started(1)
    return f, gated


def pass_time(seam: ManualSeam, seconds: float) -> None:
    """Advance the clock while a batch runs, once another thread sleeps with a timeout."""

    def alarms() -> list[Any]:
        with seam.changed:
            return [(bell, end) for bell, end in seam.asleep.values() if end is not None]

    until(alarms)
    seam.now += seconds
    for bell, end in alarms():
        if end <= seam.now:
            bell.ring()


def flat(batches: list[list[Any]]) -> list[Any]:
    return [item for batch in batches for item in batch]


def names() -> list[str]:
    """Return batchify's threads that exist now."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("batchify:")]


def echo(items: list[Any]) -> list[Any]:
    return list(items)


async def aecho(items: list[Any]) -> list[Any]:
    return list(items)


def echo_of(kind: str) -> Any:
    return echo if kind == "def" else aecho


def balanced(stats: Stats) -> bool:
    ended = stats.succeeded + stats.failed + stats.cancelled + stats.expired
    return stats.accepted == ended + stats.pending + stats.running


@contextlib.contextmanager
def eager_switches() -> Iterator[None]:
    """Switch threads as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def store_class(kind: str, gated: Gated, **options: Any) -> Any:
    class Store:
        if kind == "def":

            @batched(**options)
            def insert(self, items: list[Any]) -> list[Any]:
                return gated(items)

        else:

            @batched(**options)
            async def insert(self, items: list[Any]) -> list[Any]:
                return await gated(items)  # type: ignore[misc]

    return Store


class Broken(Exception):
    pass
