"""The actions of callers in threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import time
from functools import partial
from typing import Any

from batchify import QueueFull

from .outcomes import (
    DROPPED,
    MAY_CANCEL,
    MAY_EXPIRE,
    MAYBE,
    UNKNOWN,
    Rude,
)
from .stage import (
    Ghost,
    Pairs,
    Stage,
    in_thread,
    on_doors,
    on_mappable,
    on_ranked,
    on_small,
    on_traceable,
)


@in_thread(weight=30, items=(500, 2000))
def flood(stage: Stage) -> None:
    stage.collect(stage.submit_all())


@in_thread(weight=2, items=(20, 200))
def told(stage: Stage) -> None:
    pairs = stage.submit_all()
    stage.watch(pairs)
    stage.collect(pairs)


@in_thread()
def told_late(stage: Stage) -> None:
    pairs = stage.submit_all()
    stage.collect(pairs)
    stage.watch(pairs)
    stage.event("callback added when done", len(pairs))


@in_thread(weight=2)
def waited_for(stage: Stage) -> None:
    pairs = stage.submit_all()
    futures = [future for _, future in pairs]
    concurrent.futures.wait(
        futures, stage.ledger.patience, stage.rng.choice(("FIRST_COMPLETED", "ALL_COMPLETED"))
    )
    concurrent.futures.wait(futures, stage.ledger.patience)
    stage.collect(pairs)
    stage.event("concurrent.futures.wait")


@in_thread(weight=2)
def as_completed(stage: Stage) -> None:
    pairs = stage.submit_all()
    futures = [future for _, future in pairs]
    with contextlib.suppress(TimeoutError):
        done = list(concurrent.futures.as_completed(futures, stage.ledger.patience))
        if len(done) != len(futures):
            stage.ledger.complain("as_completed lost a future")
    stage.collect(pairs)
    stage.event("concurrent.futures.as_completed")


@in_thread(weight=3)
def cancelled_before(stage: Stage) -> None:
    pairs = stage.submit_all()
    chosen = stage.some(pairs)
    for n, future in chosen:
        stage.cancel(n, future)
    stage.event("cancel before", len(chosen))
    stage.watch(pairs)
    stage.collect(pairs)


@in_thread(weight=3)
def cancelled_during(stage: Stage) -> None:
    pairs = stage.submit_all()
    time.sleep(stage.rng.random() * 0.003)
    chosen = stage.some(pairs)
    for n, future in chosen:
        stage.cancel(n, future)
    stage.event("cancel during", len(chosen))
    stage.collect(pairs)


@in_thread(weight=2)
def raising_callbacks(stage: Stage) -> None:
    pairs = stage.submit_all()
    stage.watch(pairs)
    for _, future in pairs:
        error = stage.rng.choice((ValueError, SystemExit, KeyboardInterrupt, Rude))
        with contextlib.suppress(BaseException):  # if it is done, the callback is called at once
            future.add_done_callback(partial(raise_in_callback, error))
    stage.event("callback that raises", len(pairs))
    stage.collect(pairs)


def raise_in_callback(error: type[BaseException], _: Any) -> None:
    raise error("in a callback")


@in_thread(weight=2, items=(5, 20))
def submitting_callbacks(stage: Stage) -> None:
    pairs = stage.submit_all()
    for _, future in pairs:
        future.add_done_callback(partial(submit_in_callback, stage))
    stage.event("callback that submits", len(pairs))
    stage.collect(pairs)


def submit_in_callback(stage: Stage, _: Any) -> None:
    for n in stage.ledger.take(1):
        stage.ledger.submit_and_forget(stage.target, n)


@in_thread(weight=2, items=(5, 20))
def blocking_callbacks(stage: Stage) -> None:
    """Add callbacks that sleep and wait for other items, which may raise `Deadlock`."""
    pairs = stage.submit_all()
    for (_, future), (_, other) in itertools.pairwise(pairs):
        future.add_done_callback(partial(block_in_callback, other))
    stage.event("callback that blocks", len(pairs))
    stage.collect(pairs)


def block_in_callback(other: Any, _: Any) -> None:
    time.sleep(0.0005)
    other.exception(0.001)


@in_thread(weight=3, fits=on_ranked)
def hasty(stage: Stage) -> None:
    """Submit with deadlines and priorities."""
    deadline = stage.rng.choice((None, 0, 0.0002, 0.002, 0.05, 5))
    call = stage.target.call.options(deadline=deadline, priority=stage.rng.choice((-1, 0, 0, 2.5)))
    pairs = stage.submit_all(call, flags=0 if deadline is None else MAY_EXPIRE)
    stage.event("deadline or priority", len(pairs))
    if stage.chance(0.3):
        for n, future in stage.some(pairs):
            stage.cancel(n, future)
    stage.collect(pairs)


@in_thread(weight=4, items=(20, 800), fits=on_mappable)
def mapped(stage: Stage) -> None:
    """Call `map` in order, with a collection (whole batches) or an iterator; may stop early."""
    ids = list(stage.ids)
    stop = stage.rng.randrange(len(ids)) if stage.chance(0.3) else len(ids)
    source = ids if stage.chance(0.7) else iter(ids)
    for n in ids:
        stage.ledger.prepare(stage.target, n, UNKNOWN | MAYBE | MAY_CANCEL)
    results = stage.target.call.map(
        source, window=stage.rng.choice((None, 1, 10, 500)), return_exceptions=True
    )
    count = 0
    for n, result in zip(ids[:stop], results):
        note_result(stage, n, result)
        count += 1
    results.close()
    if count != stop:
        stage.ledger.complain(f"{stage.target.name}: map gave {count} results for {stop} items")
    stage.event("map left early" if stop < len(ids) else "map")


def note_result(stage: Stage, n: int, result: Any) -> None:
    """Record that `map` yielded the outcome of `n`, so it was submitted."""
    ledger = stage.ledger
    ledger.flags[n] &= ~(UNKNOWN | MAYBE | MAY_CANCEL)
    if isinstance(result, BaseException):
        ledger.note(n, ledger.outcome_of_error(n, result))
    else:
        ledger.note(n, ledger.outcome_of_value(n, result))


@in_thread(weight=2, items=(20, 300), fits=on_mappable)
def mapped_as_done(stage: Stage) -> None:
    """Call `map(ordered=False)`; each value shows its item."""
    ledger = stage.ledger
    ids = list(stage.ids)
    for n in ids:
        ledger.prepare(stage.target, n, UNKNOWN)
    count = 0
    for result in stage.target.call.map(ids, ordered=False, return_exceptions=True):
        count += 1
        n = abs(result) >> 24 & 0xFFFFFFFF if isinstance(result, int) else -1
        if n in stage.ids:
            note_result(stage, n, result)
    if count != len(ids):
        ledger.complain(f"{stage.target.name}: map gave {count} results for {len(ids)} items")
    stage.event("map as done")


@in_thread(weight=2)
def impatient(stage: Stage) -> None:
    pairs = stage.submit_all()
    for _, future in pairs:
        try:
            future.result(stage.rng.choice((0, 1e-6, 1e-4, 1e-3)))
        except BaseException:
            stage.event("result(timeout=tiny)")
    stage.collect(pairs)


@in_thread(weight=3, fits=on_small)
def never_waiting(stage: Stage) -> None:
    pairs = stage.submit_all(stage.target.call.submit_nowait, may=(QueueFull,))
    stage.event("QueueFull from submit_nowait", len(stage.ids) - len(pairs))
    stage.collect(pairs)


@in_thread(weight=3, fits=on_small)
def short_of_room(stage: Stage) -> None:
    call = stage.target.call.options(timeout=stage.rng.choice((0, 0.0003, 0.003)))
    pairs = stage.submit_all(call, may=(QueueFull,))
    stage.event("QueueFull from options(timeout=)", len(stage.ids) - len(pairs))
    stage.collect(pairs)


@in_thread(weight=2, items=(20, 200), fits=on_traceable)
def abandoned(stage: Stage) -> None:
    stage.submit_all(flags=DROPPED)
    stage.event("futures dropped", len(stage.ids))


@in_thread(weight=2)
def abandoned_but_told(stage: Stage) -> None:
    stage.watch(stage.submit_all())
    stage.event("futures dropped with a callback", len(stage.ids))


@in_thread()
def haunted(stage: Stage) -> None:
    """Submit from finalizers, whenever the garbage collector runs."""
    half = len(stage.ids) // 2
    ghosts, stage.ids = stage.ids[:half], stage.ids[half:]
    target = stage.target.friend
    if target is not None:
        for at in range(0, half, 5):
            Ghost(stage.ledger, target, ghosts[at : at + 5])
    stage.event("finalizer that submits", half)
    stage.collect(stage.submit_all())


@in_thread(weight=2)
def flushed(stage: Stage) -> None:
    pairs = stage.submit_all()
    timeout = stage.rng.choice((None, None, 0.001, 0))
    try:
        stage.target.call.flush(stage.ledger.patience if timeout is None else timeout)
    except TimeoutError:
        stage.event("flush that is late")
    else:
        stage.event("flush")
        if not all(future.done() for _, future in pairs):
            stage.ledger.complain(f"{stage.target.name}: flush returned too early")
    stage.collect(pairs)


@in_thread(weight=2, fits=on_doors)
def closing(stage: Stage) -> None:
    pairs = stage.submit_all()
    close_somehow(stage, pairs)
    stage.collect(pairs)


def close_somehow(stage: Stage, pairs: Pairs = []) -> None:
    """Close in one of the ways; accepted items are done afterwards."""
    cancel, timeout = stage.rng.choice(((False, None), (True, None), (False, 0.001), (True, 0.0)))
    try:
        stage.target.call.close(timeout, cancel=cancel)
    except TimeoutError:
        stage.event("close that is late")
    except RuntimeError:  # no worker could run the accepted items, so it stays open
        if not stage.target.is_uneasy:
            raise
        stage.event("close refused for want of a thread")
        return
    else:
        stage.event("close(cancel=True)" if cancel else "close")
    if not all(future.done() for _, future in pairs):
        stage.ledger.complain(f"{stage.target.name}: close({timeout}, {cancel=}) left items")


@in_thread(weight=2)
def awaited_on_a_loop(stage: Stage) -> None:
    """Await futures on a loop that were made in a thread."""
    pairs = stage.submit_all()

    async def main() -> None:
        tasks = [asyncio.create_task(await_it(future)) for _, future in pairs]
        await asyncio.sleep(0)
        for (n, _), task in zip(pairs, tasks, strict=True):
            if stage.chance(0.2):
                stage.ledger.flags[n] |= MAY_CANCEL
                task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=stage.ledger.patience)

    asyncio.run(main())
    stage.event("made in a thread, awaited on a loop", len(pairs))
    stage.collect(pairs)


async def await_it(future: Any) -> None:
    """Await a future, and ignore its outcome."""
    with contextlib.suppress(Exception):
        await future
