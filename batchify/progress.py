"""Log a stall: all workers of a function wait, and an item that they may wait for is queued.

It covers waits that cannot be proven endless: in helper threads, and on loops that a batch runs.
Each waiter checks for itself, so no extra thread is needed.
Callers are threads that wait for a result (`future`), and loops (`stalls`).
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from typing import Any

from . import waits

log = logging.getLogger("batchify")

FIRST_LOOK = 1.0  # seconds that a thread waits for a result before it checks
PATIENCE = 5.0  # seconds without progress after which a stall is logged


class Progress:
    """Check whether batches of a function still end while a batch seems to wait for its items."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._begin()

    def _begin(self) -> None:
        self._since = time.monotonic()
        self._batches = self._running()

    def _running(self) -> set[int]:
        return set() if self._engine is None else {id(one) for one in list(self._engine.batches)}

    def check(self) -> None:
        """Log a stall if all workers have run the same batches for `PATIENCE` seconds."""
        if time.monotonic() - self._since < PATIENCE:
            return
        if self._engine is not None and self._running() == self._batches:
            warn(self._engine)
        self._begin()


def wait(bell: Any, engine: Any) -> bool:
    """Wait for `bell` without a time limit, and log a stall if there is one."""
    before = _held_up(engine)
    if before is not None:
        if bell.wait(PATIENCE):
            return True
        if _held_up(engine) == before:
            warn(engine)
    return bell.wait(None)  # type: ignore[no-any-return]


def warn(engine: Any) -> None:
    """Log, once for each engine, that a batch may wait for an item in its own queue."""
    if engine.has_stalled or not engine.forming.pending or engine.holders(None) is None:
        return
    engine.has_stalled = True
    name = engine.options.name
    log.warning(
        "%s: no batch has ended for %g s, items are queued, and a batch seems to wait for one of "
        'them; such a wait never ends: use "%s.batch([...])" in the batch, or raise workers',
        name, PATIENCE, name,
    )  # fmt: skip


def _held_up(engine: Any) -> list[tuple[int, ...]] | None:
    """Return where the workers of `engine` wait; None if one of them runs or is free."""
    if engine.holders(None) is None:
        return None
    batches = list(engine.batches)
    if engine.can_await:  # the context tells whether this thread helps a batch
        return [(id(batch),) for batch in batches] if waits.in_batch.get() else None
    frames = sys._current_frames()
    found: list[tuple[int, ...]] = []
    try:
        for batch in batches:
            frame = frames.pop(batch.thread, None)
            if frame is None or frame.f_code.co_filename != threading.__file__:
                return None
            found.append((id(batch), id(frame), frame.f_lasti))
        return found
    finally:
        frames.clear()  # with this frame it would be a cycle
        frame = None
