"""The actions of callers on event loops."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial

from batchify import QueueFull

from .outcomes import FULL, MAY_CANCEL, MAY_EXPIRE, MAYBE, UNKNOWN, Rude
from .stage import Pairs, Stage, on_doors, on_loop, on_mappable, on_ranked, on_small
from .threads import await_it, note_result, raise_in_callback, submit_in_callback


@on_loop(weight=30, items=(500, 2000))
async def gathered(stage: Stage) -> None:
    await stage.gather(stage.submit_all())


@on_loop(weight=2, items=(20, 200))
async def told_on_a_loop(stage: Stage) -> None:
    pairs = stage.submit_all()
    stage.watch(pairs)
    await stage.gather(pairs)
    await asyncio.sleep(0)


@on_loop(weight=2)
async def task_group(stage: Stage) -> None:
    pairs = stage.submit_all()
    async with asyncio.timeout(stage.ledger.patience), asyncio.TaskGroup() as group:
        for _, future in pairs:
            group.create_task(await_it(future))
    stage.look_at_all(pairs)


@on_loop(weight=3)
async def cancelled_futures(stage: Stage) -> None:
    pairs = stage.submit_all()
    if stage.chance(0.6):
        await asyncio.sleep(stage.rng.choice((0, 0, 0.001, 0.002)))
    chosen = stage.some(pairs)
    for n, future in chosen:
        stage.cancel(n, future)
    stage.event("cancel on a loop", len(chosen))
    await stage.gather(pairs)


@on_loop(weight=3)
async def cancelled_tasks(stage: Stage) -> None:
    pairs = stage.submit_all()
    tasks = [asyncio.create_task(await_it(future)) for _, future in pairs]
    await asyncio.sleep(stage.rng.choice((0, 0, 0.001)))
    for (n, _), task in zip(pairs, tasks, strict=True):
        if stage.chance(0.4):
            stage.ledger.flags[n] |= MAY_CANCEL
            task.cancel()
            stage.event("awaiting task cancelled")
    await stage.gather(pairs)
    await asyncio.sleep(0)


@on_loop()
async def cancelled_gather(stage: Stage) -> None:
    pairs = stage.submit_all(flags=MAY_CANCEL)
    together = asyncio.gather(*(future for _, future in pairs))
    await asyncio.sleep(stage.rng.choice((0, 0.001)))
    together.cancel()
    with contextlib.suppress(Exception, asyncio.CancelledError):
        await together
    stage.event("gather cancelled")
    await stage.gather(pairs)


@on_loop(weight=2)
async def timed(stage: Stage) -> None:
    pairs = stage.submit_all(flags=MAY_CANCEL)
    for _, future in pairs:
        try:
            await asyncio.wait_for(future, stage.rng.choice((0, 1e-5, 1e-4, 1e-3, 1)))
        except (Exception, asyncio.CancelledError):
            stage.event("wait_for in vain")
    await stage.gather(pairs)


@on_loop(weight=2)
async def shielded(stage: Stage) -> None:
    pairs = stage.submit_all()
    for _, future in pairs[:10]:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(asyncio.shield(future), stage.rng.choice((0, 1e-4, 1e-3)))
        stage.event("shield")
    await stage.gather(pairs)


@on_loop(weight=2)
async def raising_loop_callbacks(stage: Stage) -> None:
    pairs = stage.submit_all()
    stage.watch(pairs)
    for _, future in pairs:
        error = stage.rng.choice((ValueError, Rude, asyncio.CancelledError))
        future.add_done_callback(partial(raise_in_callback, error))
    stage.event("loop callback that raises", len(pairs))
    await stage.gather(pairs)
    await asyncio.sleep(0)


@on_loop(weight=2, items=(5, 20))
async def submitting_loop_callbacks(stage: Stage) -> None:
    pairs = stage.submit_all()
    for _, future in pairs:
        future.add_done_callback(partial(submit_in_callback, stage))
    stage.event("loop callback that submits", len(pairs))
    await stage.gather(pairs)
    await asyncio.sleep(0)


@on_loop(weight=3, fits=on_small)
async def waiting_for_room(stage: Stage) -> None:
    """Call `asubmit`; cancel some calls, give some a timeout."""
    ledger, target = stage.ledger, stage.target
    pairs: Pairs = []
    limit = stage.rng.choice((None, None, 0.0005))
    asubmit = (target.call if limit is None else target.call.options(timeout=limit)).asubmit

    async def one(n: int) -> None:
        ledger.prepare(target, n)
        extra = (n % 3,) if target.is_grouped else ()
        more = {"level": n % 2} if target.is_grouped else {}
        try:
            pairs.append((n, await asubmit(n, *extra, **more)))
        except asyncio.CancelledError:
            ledger.flags[n] |= UNKNOWN | MAY_CANCEL  # it may have run without a caller
        except BaseException as error:
            ledger.refused(target, n, error, () if limit is None else (QueueFull,))

    tasks = [asyncio.create_task(one(n)) for n in stage.ids]
    for task in tasks:
        if stage.chance(0.2):
            await asyncio.sleep(0)
            task.cancel()
            stage.event("asubmit cancelled")
    await asyncio.wait(tasks, timeout=ledger.patience)
    await stage.gather(pairs)


@on_loop(weight=3, fits=on_ranked)
async def hasty_on_a_loop(stage: Stage) -> None:
    """Submit with deadlines and priorities."""
    deadline = stage.rng.choice((None, 0, 0.0002, 0.002, 0.05, 5))
    call = stage.target.call.options(deadline=deadline, priority=stage.rng.choice((-1, 0, 0, 2.5)))
    pairs = stage.submit_all(call, flags=0 if deadline is None else MAY_EXPIRE)
    stage.event("deadline or priority", len(pairs))
    await stage.gather(pairs)


@on_loop(weight=4, items=(20, 800), fits=on_mappable)
async def mapped_on_a_loop(stage: Stage) -> None:
    """Call `amap` with a collection or an async iterator; stop early sometimes."""
    ids = list(stage.ids)
    stop = stage.rng.randrange(len(ids)) if stage.chance(0.3) else len(ids)
    source = ids if stage.chance(0.5) else slowly(ids)
    for n in ids:
        stage.ledger.prepare(stage.target, n, UNKNOWN | MAYBE | MAY_CANCEL)
    results = stage.target.call.amap(
        source, window=stage.rng.choice((None, 1, 10, 500)), return_exceptions=True
    )
    at = 0
    async with contextlib.aclosing(results):
        async for result in results:
            if at == stop:
                break
            note_result(stage, ids[at], result)
            at += 1
    if at != stop:
        stage.ledger.complain(f"{stage.target.name}: amap gave {at} results for {stop} items")
    stage.event("amap left early" if stop < len(ids) else "amap")


async def slowly(ids: list[int]) -> AsyncIterator[int]:
    for n in ids:
        if n % 16 == 0:
            await asyncio.sleep(0)
        yield n


@on_loop(weight=2, fits=on_small)
async def short_of_room_on_a_loop(stage: Stage) -> None:
    call = stage.target.call.options(timeout=stage.rng.choice((0, 0.0005, 0.005)))
    pairs = stage.submit_all(call)
    await stage.gather(pairs)
    full = sum(stage.ledger.seen[n] == FULL for n, _ in pairs)
    stage.event("QueueFull through a future", full)


@on_loop(weight=2, fits=on_small)
async def never_waiting_on_a_loop(stage: Stage) -> None:
    pairs = stage.submit_all(stage.target.call.submit_nowait, may=(QueueFull,))
    stage.event("QueueFull from submit_nowait", len(stage.ids) - len(pairs))
    await stage.gather(pairs)


@on_loop(weight=2)
async def made_elsewhere(stage: Stage) -> None:
    """Await futures made in a thread; cancel some of the awaiting tasks."""
    pairs = await asyncio.to_thread(stage.submit_all)
    tasks = [asyncio.create_task(await_it(future)) for _, future in pairs]
    await asyncio.sleep(0)
    for (n, _), task in zip(pairs, tasks, strict=True):
        if stage.chance(0.3):
            stage.ledger.flags[n] |= MAY_CANCEL
            task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=stage.ledger.patience)
    stage.event("made in a thread, awaited on a loop", len(pairs))
    await asyncio.to_thread(stage.collect, pairs)


@on_loop(weight=2)
async def looked_at_elsewhere(stage: Stage) -> None:
    """Wait in a thread for futures made on the loop."""
    pairs = stage.submit_all()
    stage.event("made on a loop, waited for in a thread", len(pairs))
    await asyncio.to_thread(stage.collect, pairs)


@on_loop(weight=2)
async def flushed_on_a_loop(stage: Stage) -> None:
    pairs = stage.submit_all()
    timeout = stage.rng.choice((None, None, 0.001))
    # On a loop a call may still wait for capacity, and a flush covers accepted items only. While
    # there is capacity, no call waits.
    stats, capacity = stage.target.call.stats(), stage.target.call.capacity
    is_full = capacity is not None and stats.pending + stats.running >= capacity
    waiting = (is_full or stage.target.is_moody) and not all(future.done() for _, future in pairs)
    try:
        await stage.target.call.aflush(stage.ledger.patience if timeout is None else timeout)
    except TimeoutError:
        stage.event("flush that is late")
    else:
        stage.event("flush")
        if not waiting and not all(future.done() for _, future in pairs):
            stage.ledger.complain(f"{stage.target.name}: aflush returned too early")
    await stage.gather(pairs)


@on_loop(fits=on_doors)
async def closing_on_a_loop(stage: Stage) -> None:
    pairs = stage.submit_all()
    cancel, timeout = stage.rng.choice(((False, None), (True, None), (False, 0.001)))
    try:
        await stage.target.call.aclose(timeout, cancel=cancel)
    except TimeoutError:
        stage.event("close that is late")
    else:
        stage.event("close(cancel=True)" if cancel else "close")
    if not all(future.done() for _, future in pairs):
        stage.ledger.complain(f"{stage.target.name}: aclose({timeout}, {cancel=}) left items")
    await stage.gather(pairs)


@on_loop(weight=2)
async def left_behind(stage: Stage) -> None:
    stage.later += stage.submit_all()
    stage.event("left to the end of the loop", len(stage.ids))
