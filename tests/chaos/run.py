"""Run epochs, and check the ledger after each one."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import itertools
import logging
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from tests.frozen import frozen

from ..limits import LIMIT
from . import loops as _loops  # noqa: F401  (the scenes)
from . import plan
from . import threads as _threads  # noqa: F401
from .judge import Judge, Report
from .ledger import Ledger
from .outcomes import CALLED, UNKNOWN
from .players import LoopPlayer, Player, ThreadPlayer
from .process import Process
from .soak import Soak
from .stage import LOOP_SCENES, THREAD_SCENES
from .town import Town
from .weather import Weather


def run_chaos(
    items: int | None,
    seed: int,
    *,
    threads: int = 4,
    loops: int = 3,
    seconds: float = float("inf"),
    patience: float | None = None,
    stall: float = LIMIT,
    soak: Soak | None = None,
) -> Report:
    """Run a chaos run and return its report.

    Args:
        items: the total number of items; None: run until the time is over.
        seed: determines the faults.
        threads, loops: how many of each submit items.
        seconds: after how many seconds no more scenes begin.
        patience: seconds that a caller waits for a future; None: until the watchdog ends the run.
        stall: seconds without any progress after which the run is abandoned.
        soak: called for each epoch; watches the memory.
    """
    began = time.monotonic()
    report = Report(seed)
    first = plan.EPOCH if items is None else min(items, plan.EPOCH)
    ledger = Ledger(first, seed, patience)
    town = Town(ledger)
    judge = Judge(town, report)

    def tell() -> None:
        if soak is not None:
            soak.tell(report.items + ledger.handed)

    with calm(seed), all_ears(ledger):
        try:
            for epoch in itertools.count():
                play(town, threads, loops, stall, began + seconds, tell)
                judge.judge()
                if soak is not None:
                    soak.note()
                left = plan.EPOCH if items is None else min(plan.EPOCH, items - report.items)
                if left <= 0 or time.monotonic() > began + seconds or not is_well(report, ledger):
                    break
                ledger.open_epoch(epoch + 1, left)
                ledger.is_over = False
            close_all(town)
        except Stuck as stuck:
            ledger.complain(str(stuck))
            judge.judge()
    judge.sum_up()
    report.seconds = time.monotonic() - began
    return report


def is_well(report: Report, ledger: Ledger) -> bool:
    """Return True if the run can continue."""
    return report.is_clean and not ledger.broken and not ledger.misled


def play(
    town: Town, threads: int, loops: int, stall: float, end: float, tell: Callable[[], None]
) -> None:
    """Run one epoch; at its end no item is pending."""
    players: list[Player] = [
        *(ThreadPlayer(town, f"thread {n}", THREAD_SCENES) for n in range(threads)),
        *(LoopPlayer(town, f"loop {n}", LOOP_SCENES) for n in range(loops)),
    ]
    weather = Weather(town)
    process = Process(town)

    def act() -> None:
        process.act()
        tell()

    weather.begin()
    try:
        for player in players:
            player.thread.start()
        wait_for(players, town.ledger, stall, end, act)
    finally:
        weather.end()
    settle_all(town)


def settle_all(town: Town) -> None:
    """Wait for the items that no caller waits for."""
    ledger = town.ledger
    limit = ledger.patience or LIMIT
    ledger.is_over = True
    gc.collect()  # finalizers submit, and the leftovers of closed loops end
    for _ in range(2):  # callbacks submit
        for target in town.all:
            if target.call is not None:
                with contextlib.suppress(TimeoutError):
                    target.call.flush(limit)
    until(limit, lambda: all(ledger.told[n] for n in called(ledger)))
    if not until(limit, lambda: not ledger.busy or (gc.collect() and not ledger.busy)):
        names = sorted(batch.target.name for batch in ledger.busy)
        ledger.complain(f"batch functions never ended: {names}")


def called(ledger: Ledger) -> Iterator[int]:
    """Return the items for which a callback must be called."""
    return (n for n, flags in enumerate(ledger.flags) if flags & (CALLED | UNKNOWN) == CALLED)


def until(limit: float, fact: Callable[[], bool]) -> bool:
    end = time.monotonic() + limit
    while not fact():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def close_all(town: Town) -> None:
    for target in town.all:
        if target.call is not None:
            try:
                target.call.close(town.ledger.patience or LIMIT)
            except TimeoutError:
                town.ledger.complain(f"{target.name}: it did not close in time")
            # A late close abandoned batches of `async def`, which must still end.
            end = time.monotonic() + (plan.SETTLE if target.is_async else 0)
            while target.call.stats().workers and time.monotonic() < end:
                time.sleep(0.01)
            if target.call.stats().workers:
                town.ledger.complain(f"{target.name}: workers remain after close")


# ---- watching ----


@contextlib.contextmanager
def all_ears(ledger: Ledger) -> Iterator[None]:
    """Record errors that reach no caller: dead workers, finalizers that raise."""

    def unraisable(what: Any) -> None:
        if never_began(what.exc_value) or is_half_made(what.exc_value):
            return
        ledger.complain(f"{what.err_msg or 'ignored in'} {what.object!r}: {what.exc_value!r}")

    def thread_died(what: Any) -> None:
        ledger.complain(f"thread {what.thread and what.thread.name} died: {what.exc_value!r}")

    hooks = sys.unraisablehook, threading.excepthook
    sys.unraisablehook, threading.excepthook = unraisable, thread_died
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "coroutine .* was never awaited")
        try:
            yield
        finally:
            gc.collect()
            sys.unraisablehook, threading.excepthook = hooks


def never_began(error: Any) -> bool:
    """Return True if a signal handler interrupted the `start` of the thread.

    CPython forgets the thread then, and it dies before its target runs; the engine never knew it.
    """
    return isinstance(error, KeyError) and isinstance(error.args[0], threading.Thread)


def is_half_made(error: Any) -> bool:
    """Return True if a signal handler interrupted the creation of an event loop.

    No code refers to that loop, so only its finalizer can close it, which prints a warning.
    (test_lifetime_threads looks for loops that should have been closed.)
    """
    return isinstance(error, ResourceWarning) and "unclosed event loop" in str(error)


class Stuck(Exception):
    """Raised if some players will never end."""


@contextlib.contextmanager
def calm(seed: int) -> Iterator[None]:
    """Suppress the output of expected errors, and set the switch interval that the seed says.

    Old objects are frozen, so that garbage collections visit only objects of the run.
    """
    loggers = [logging.getLogger(name) for name in ("batchify", "asyncio", "concurrent.futures")]
    before = [logger.disabled for logger in loggers]
    interval = sys.getswitchinterval()
    for logger in loggers:
        logger.disabled = True
    sys.setswitchinterval(random.Random(seed).choice((0.005, 0.001, 0.0001, 0.00002)))
    gc.collect()
    try:
        with frozen():
            yield
    finally:
        sys.setswitchinterval(interval)
        for logger, was_disabled in zip(loggers, before, strict=True):
            logger.disabled = was_disabled


def watchdog(seconds: float) -> None:
    """Dump all stacks after this many seconds, unless called again before."""
    faulthandler.dump_traceback_later(seconds, file=sys.__stderr__)


def wait_for(
    players: list[Player], ledger: Ledger, stall: float, end: float, act: Callable[[], None]
) -> None:
    """Wait for the players; if there is no progress, dump all stacks and give up.

    Args:
        players: the players.
        ledger: shows the progress.
        stall: seconds in which there must be progress.
        end: the time after which no more scenes begin.
        act: called repeatedly, for the actions of the main thread.
    """
    progress, moved = -1, time.monotonic()
    woken = moved
    watchdog(stall)
    try:
        while any(player.thread.is_alive() for player in players):
            time.sleep(0.02)
            act()
            now = time.monotonic()
            ledger.is_over = ledger.is_over or now > end
            if ledger.progress != progress:
                progress, moved = ledger.progress, now
                if now - woken > 1:  # each starts one thread, and joins another
                    woken = now
                    watchdog(stall)
            elif now - moved > stall + 1:
                raise Stuck(f"no progress for {stall} s")
    finally:
        ledger.is_over = True
        faulthandler.cancel_dump_traceback_later()
