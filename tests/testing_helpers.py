"""Batch functions that record, and a patient clock, for the tests of `batchify.testing`."""

from __future__ import annotations

import asyncio
import functools
from contextvars import ContextVar
from typing import Any

from batchify import batched, testing
from tests.limits import LIMIT

NEVER = 1e9
where: ContextVar[str] = ContextVar("where", default="nowhere")


class Batches(list[list[Any]]):
    """Returns its items, and records them."""

    def __call__(self, items: list[Any]) -> list[Any]:
        self.append(list(items))
        return items


HELD = 0.05  # the patience of tests that block their batches
manual_clock = functools.partial(testing.manual_clock, patience=LIMIT)


class Times(list[tuple[Any, float]]):
    """Records which items ran when, by the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.clock: Any = None

    def function(self, name: str, **options: Any) -> Any:
        def run(items: list[Any]) -> list[Any]:
            self.append((name, self.clock.now))
            return items

        return batched(run, **options)


async def awork(items: list[Any]) -> list[Any]:
    await asyncio.sleep(0)
    if isinstance(items[0], Exception):
        raise items[0]
    return [(where.get(), item) for item in items]
