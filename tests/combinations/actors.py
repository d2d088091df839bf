"""`Play`: an actor that runs its steps in its thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from tests.combinations.ledger import Item, Ledger, Sent, outcome_of
from tests.combinations.plan import NEVER, Actor
from tests.limits import LIMIT


class Play:
    """Runs the steps of one actor in its thread."""

    def __init__(self, ledger: Ledger, number: int, actor: Actor) -> None:
        self.ledger = ledger
        self.plan = ledger.plan
        self.number = number
        self.actor = actor
        self.mine: list[Sent] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self.leaves = actor.kind == "loop" and actor.leaves

    @property
    def function(self) -> Any:
        return self.ledger.functions()

    def run(self) -> None:
        if self.actor.kind == "loop":
            asyncio.run(self.on_loop())
            return
        for step in self.actor.steps:
            self.step(step)
        concurrent.futures.wait(self.futures(), LIMIT)

    def futures(self) -> list[Any]:
        return [sent.future for sent in self.mine if sent.future is not None]

    # -- one item --

    def new(self, way: str, limit: float | None = None) -> Sent:
        """Return an item that is about to be submitted."""
        plan, ledger = self.plan, self.ledger
        with ledger.lock:
            count = sum(sent.actor == self.number for sent in ledger.sent.values())
            number = self.number * 1000 + count
            twin = number % plan.twins if plan.dedupe else number
            key = number % plan.keys if plan.keys else 0
            weight = plan.weights[number % len(plan.weights)] if plan.weights else 0
            item = Item(twin, number, key, weight, plan.fates[twin % len(plan.fates)])
            table = "ab"[number // 2 % 2] if plan.has_table and "map" not in way else ""
            is_loop = self.actor.kind == "loop"
            sent = Sent(item, self.number, is_loop, table, way, limit, time.monotonic())
            ledger.sent[number] = sent
        self.mine.append(sent)
        return sent

    def submit(self, way: str, limit: float | None = None) -> Sent:
        """Call the function with a new item."""
        sent = self.new(way, limit)
        function = self.function
        if way in ("deadline", "priority", "timeout"):
            function = function.options(**{way: limit})
        if way == "nowait":
            function = function.submit_nowait
        extra = (sent.table,) if sent.table else ()
        try:
            self.keep(sent, function(sent.item, *extra))
        except Exception as error:
            sent.refused = outcome_of(error)
        return sent

    def keep(self, sent: Sent, future: Any) -> None:
        sent.future = future
        if not self.leaves:
            sent.is_watched = True
            future.add_done_callback(functools.partial(self.told, sent))

    def told(self, sent: Sent, future: Any) -> None:
        sent.told.append(time.monotonic())
        self.ledger.check(future.done(), f"{sent.item.number} is told before its end")

    def cancel(self, sent: Sent) -> None:
        future = sent.future
        if future is None or future.done():
            return
        sent.is_cancelled = True
        was_running = future.running()
        # An item that a loop cancels may have started in a worker thread between these two lines.
        is_sure = not (sent.is_loop and not self.plan.flavour.startswith("async"))
        if future.cancel() and is_sure and not (sent.is_loop and was_running):
            sent.is_gone = True

    def last(self, count: int) -> list[Sent]:
        return [sent for sent in self.mine if sent.future is not None][-count:]

    # -- in a thread --

    def step(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("call" | "nowait" | "deadline" | "priority" | "timeout" as way, count, *limit):
                for _ in range(count):
                    self.submit(way, *limit)
            case ("asubmit" | "task", count, *_):
                for _ in range(count):
                    self.submit("call")
            case ("map" | "leave map", *_):
                self.map(*step)
            case ("cancel", count):
                for sent in self.last(count):
                    self.cancel(sent)
            case ("wait", count):
                for sent in self.last(count):
                    with contextlib.suppress(concurrent.futures.CancelledError):
                        sent.future.exception()
                    is_done = sent.future.done()
                    self.ledger.check(is_done, f"{sent.item.number} has no end after a wait")
            case ("sleep", seconds):
                time.sleep(seconds)
            case ("flush",):
                self.function.flush()

    def source(self, way: str, count: int, is_list: bool) -> tuple[list[Sent], Any]:
        """Return the argument of a map; an iterator numbers each item when it is taken."""
        if is_list:
            sents = [self.new(way) for _ in range(count)]
            return sents, [sent.item for sent in sents]
        sents = []

        def items() -> Iterator[Item]:
            for _ in range(count):
                sents.append(self.new(way))
                yield sents[-1].item

        return sents, items()

    def map(self, way: str, count: int, window: Any, is_list: bool = True, *order: bool) -> None:
        ordered = not order or order[0]
        sents, items = self.source(way, count, is_list)
        results = self.function.map(items, window=window, ordered=ordered, return_exceptions=True)
        if way == "map":
            self.note(sents, list(results), ordered)
            return
        for sent in sents:
            sent.is_unknown = sent.is_cancelled = True
        next(results)
        results.close()

    def note(self, sents: list[Sent], results: list[Any], ordered: bool) -> None:
        """Check the results of a map."""
        outcomes = [outcome_of(result) for result in results]
        self.ledger.check(len(outcomes) == len(sents), f"{len(outcomes)} results of {len(sents)}")
        if ordered:
            for sent, outcome in zip(sents, outcomes, strict=True):
                sent.outcome = outcome
            return
        twins = {sent.item.twin for sent in sents}
        for outcome in outcomes:
            is_mine = outcome[0] not in ("value", "fallback", "element") or outcome[1] in twins
            self.ledger.check(is_mine, f"map gave {outcome}, which belongs to another item")
        with self.ledger.lock:
            self.ledger.loose += outcomes

    # -- on a loop --

    async def on_loop(self) -> None:
        for step in self.actor.steps:
            await self.astep(step)
            await asyncio.sleep(0)
        if self.leaves:
            # A task that the end of the loop cancels cancels its future.
            for sent in self.mine:
                sent.is_cancelled = sent.is_cancelled or sent.way in ("task", "asubmit")
            return
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=LIMIT)
        if futures := self.futures():
            await asyncio.wait(futures, timeout=LIMIT)
        end = time.monotonic() + LIMIT
        # A worker thread stores the outcome of a future before it schedules the loop's callback.
        while not all(sent.told for sent in self.mine if sent.is_watched):
            if time.monotonic() > end:
                break
            await asyncio.sleep(0.001)

    async def astep(self, step: tuple[Any, ...]) -> None:
        match step:
            case ("asubmit", count):
                for _ in range(count):
                    await self.asubmit()
            case ("task", count, seconds):
                tasks = [asyncio.create_task(self.task()) for _ in range(count)]
                self.tasks += tasks
                if seconds != NEVER:
                    await asyncio.sleep(seconds)
                    for task in tasks:
                        task.cancel()
            case ("map" | "leave map", *_):
                await self.amap(*step)
            case ("wait", count):
                if waited := [sent.future for sent in self.last(count)]:
                    await asyncio.gather(*waited, return_exceptions=True)
            case ("sleep", seconds):
                await asyncio.sleep(seconds)
            case ("flush",):
                await self.function.aflush()
            case _:
                self.step(step)

    async def asubmit(self) -> None:
        sent = self.new("asubmit")
        extra = (sent.table,) if sent.table else ()
        try:
            self.keep(sent, await self.function.asubmit(sent.item, *extra))
        except Exception as error:
            sent.refused = outcome_of(error)

    async def task(self) -> None:
        """Await a call in a task that may be cancelled."""
        sent = self.submit("task")
        if sent.future is None:
            return
        sent.is_cancelled = True  # or so it may be
        with contextlib.suppress(Exception):
            await sent.future

    async def amap(
        self, way: str, count: int, window: Any, is_list: bool = True, *order: bool
    ) -> None:
        ordered = not order or order[0]
        sents, items = self.source(way, count, is_list)
        if not is_list:
            items = stream(items)
        results = self.function.amap(items, window=window, ordered=ordered, return_exceptions=True)
        if way == "map":
            self.note(sents, [result async for result in results], ordered)
            return
        for sent in sents:
            sent.is_unknown = sent.is_cancelled = True
        await anext(results)
        await results.aclose()


async def stream(items: Any) -> AsyncIterator[Any]:
    for item in items:
        await asyncio.sleep(0)
        yield item
