"""Scenes: what callers do with the items that they submitted."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from .ledger import Ledger
from .outcomes import CALLED, MAY_CANCEL, MAY_CLOSE, NEVER_RUN
from .town import Target

Pairs = list[tuple[int, Any]]  # an item and its future


class Ghost:
    """Cyclic garbage whose finalizer submits, in any thread, at any time."""

    def __init__(self, ledger: Ledger, target: Target, ids: range) -> None:
        self.itself = self
        self.rest = (ledger, target, ids)

    def __del__(self) -> None:
        ledger, target, ids = self.rest
        try:
            for n in ids:
                ledger.submit_and_forget(target, n)
        except BaseException:
            ledger.complain(traceback.format_exc())


class Stage:
    """One scene: its player, its function and its items."""

    def __init__(
        self, ledger: Ledger, rng: random.Random, target: Target, ids: range, later: Pairs
    ) -> None:
        self.ledger = ledger
        self.rng = rng
        self.target = target
        self.ids = ids
        self.later = later  # futures to check after the scene, or after the loop

    def event(self, what: str, times: int = 1) -> None:
        if times:
            self.ledger.count(self.ledger.events, what, times)

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def submit_all(
        self, call: Any = None, flags: int = 0, may: tuple[type[BaseException], ...] = ()
    ) -> Pairs:
        """Submit the scene's items; return the futures of those that were accepted."""
        target = self.target
        if not (target.is_grouped or target.refuses or target.flags & MAY_CLOSE):
            return self._submit_plain(call or target.call, flags, may)
        pairs: Pairs = []
        ledger = self.ledger
        for n in self.ids:
            future = ledger.submit(target, n, call, flags, may)
            if future is not None:
                pairs.append((n, future))
            elif target.flags & MAY_CLOSE:  # closed; it is started again soon
                time.sleep(0.0005)
                break
        return pairs

    def _submit_plain(self, call: Any, flags: int, may: tuple[type[BaseException], ...]) -> Pairs:
        """Submit all items with less overhead per call."""
        pairs: Pairs = []
        ledger, target = self.ledger, self.target
        ledger.prepare_all(target, self.ids, flags)
        for n in self.ids:
            try:
                future = call(n)
            except BaseException as error:
                ledger.refused(target, n, error, may)
            else:
                pairs.append((n, future))
        return pairs

    def cancel(self, n: int, future: Any) -> None:
        """Cancel a future, and record what that promises."""
        is_on_loop = asyncio.isfuture(future)
        was_running = future.running()
        if not future.cancel():
            return
        self.ledger.flags[n] |= MAY_CANCEL
        if not future.cancelled():
            self.ledger.complain("cancel() gave True, cancelled() False")
        if self.target.is_retried:
            return  # it may have run before
        if not is_on_loop or (self.target.is_async and not was_running):
            self.ledger.flags[n] |= NEVER_RUN

    def watch(self, pairs: Pairs) -> None:
        """Add a callback to each future, which must be called."""
        for n, future in pairs:
            self.ledger.flags[n] |= CALLED
            future.add_done_callback(partial(self.ledger.tell, n))

    def some(self, pairs: Pairs) -> Pairs:
        share = self.rng.random()
        return [pair for pair in pairs if self.rng.random() < share]

    # -- endings --

    def collect(self, pairs: Pairs, most: float | None = None) -> None:
        """Wait in a thread, at most `most` seconds for a future that cannot be abandoned."""
        patience = self.ledger.patience or most
        self.ledger.collect(pairs, patience)

    async def gather(self, pairs: Pairs) -> None:
        """Wait on the loop in one of asyncio's ways, without cancelling anything."""
        futures = [future for _, future in pairs]
        style = self.rng.randrange(4) if self.ledger.patience is None else 0
        if not futures:
            await asyncio.sleep(0)
        elif style == 0:
            await asyncio.wait(futures, timeout=self.ledger.patience)
        elif style == 1:
            await asyncio.gather(*futures, return_exceptions=True)
        elif style == 2:
            for future in futures:
                with contextlib.suppress(Exception, asyncio.CancelledError):
                    await future
        else:
            for soon in asyncio.as_completed(futures):
                with contextlib.suppress(Exception, asyncio.CancelledError):
                    await soon
        self.look_at_all(pairs)

    def look_at_all(self, pairs: Pairs) -> None:
        for n, future in pairs:
            self.ledger.look(n, future)
        self.ledger.progress += 1


@dataclass
class Scene:
    play: Callable[[Stage], Any]
    weight: int
    items: tuple[int, int]
    fits: Callable[[Target], bool]


THREAD_SCENES: list[Scene] = []
LOOP_SCENES: list[Scene] = []


def anywhere(_: Target) -> bool:
    return True


def on_small(target: Target) -> bool:
    return target.is_small


def on_open(target: Target) -> bool:
    """Return True if the function never closes."""
    return not target.flags & MAY_CLOSE


def on_lasting(target: Target) -> bool:
    """Return True if the function never closes, and `stats()` is available at the end."""
    return on_open(target) and target.owner is None


def on_ranked(target: Target) -> bool:
    return target.is_ranked


def on_traceable(target: Target) -> bool:
    """Return True if the outcome of dropped items follows from what was meant."""
    return on_lasting(target) and not target.is_deduped and not target.is_uneasy


def on_mappable(target: Target) -> bool:
    """Return True if the function takes any item, without extra arguments."""
    return on_open(target) and not (target.refuses or target.is_grouped or target.is_uneasy)


def on_doors(target: Target) -> bool:
    return bool(target.flags & MAY_CLOSE)


def in_thread(
    weight: int = 1,
    items: tuple[int, int] = (5, 60),
    fits: Callable[[Target], bool] = anywhere,
) -> Callable[[Any], Any]:
    """Register a scene for threads."""

    def add(play: Callable[[Stage], None]) -> Callable[[Stage], None]:
        THREAD_SCENES.append(Scene(play, weight, items, fits))
        return play

    return add


def on_loop(
    weight: int = 1,
    items: tuple[int, int] = (5, 60),
    fits: Callable[[Target], bool] = anywhere,
) -> Callable[[Any], Any]:
    """Register a scene for event loops."""

    def add(play: Any) -> Any:
        LOOP_SCENES.append(Scene(play, weight, items, fits))
        return play

    return add
