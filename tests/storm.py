"""Real SIGINTs, whose handler raises, at random instants of every operation of a caller.

    python -m tests.storm --interrupts 100000 [--seed 1]

A child process sends them. The main thread submits, waits, cancels, flushes, maps, sets limits,
closes and starts; every second handler submits too. Meanwhile other threads and an event loop use
the same functions, and must not be affected.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import faulthandler
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import CancelledError
from typing import Any

from batchify import BatchAborted, Closed, Deadlock, QueueFull, batched
from tests.limits import LIMIT
from tests.manual import in_thread

CALLER = 3  # batches of this function run in callers' threads

SENDER = """
import os, random, sys, time
main, seed, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
draw = random.Random(seed)
while os.getppid() == main:
    os.kill(main, 2)
    time.sleep(draw.random() * pause)
"""


class Interrupt(BaseException):
    """Raised by the handler."""


class Storm:
    """Some functions, their callers, and the records of their items."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.ran: Counter[Any] = Counter()
        self.ends: list[Any] = []
        self.known: dict[Any, tuple[Any, Any]] = {}
        self.numbers = iter(range(1 << 60))
        self.interrupts = 0
        self.wanted = 0
        self.raised = 0
        self.calls = 0
        self.others = 0
        self.is_over = False
        self.is_handling = False
        run, arun = self.run, self.arun
        self.functions: list[Any] = [
            batched(run, size=7, workers=2, capacity=30, name="plain"),
            batched(run, size=5, capacity=20, key=lambda item: item[1] % 3, name="keyed"),
            batched(run, size=4, linger=0.002, name="lingering"),
            batched(arun, size=6, workers=2, capacity=40, name="async"),
        ]

    def run(self, items: list[Any]) -> list[Any]:
        self.ran.update(items)
        return [("done", item) for item in items]

    async def arun(self, items: list[Any]) -> list[Any]:
        self.ran.update(items)
        await asyncio.sleep(0)
        return [("done", item) for item in items]

    # ---- the main thread ----

    def handle(self, _: int, frame: Any) -> None:
        self.interrupts += 1
        if self.is_handling or self.is_over:
            return
        while frame is not None and frame.f_code is not Storm.work.__code__:
            frame = frame.f_back
        if frame is None:
            return  # no caller waits for it between two rounds
        self.is_handling = True
        try:
            if self.interrupts % 2:
                with contextlib.suppress(Closed, Deadlock):
                    f = self.functions[self.interrupts // 2 % len(self.functions)]
                    f.submit_nowait(("handler", next(self.numbers)))
        except QueueFull:
            pass
        finally:
            self.is_handling = False
        self.raised += 1
        raise Interrupt

    def main(self, wanted: int, seconds: float) -> None:
        end = time.monotonic() + seconds
        while self.interrupts < wanted and time.monotonic() < end:
            try:
                self.work(wanted, end)
            except Interrupt:
                pass
        self.is_over = True

    def work(self, wanted: int, end: float) -> None:
        draw = self.random
        for f in self.functions:
            f.start()  # perhaps a restart was interrupted
        while self.interrupts < wanted and time.monotonic() < end:
            f = draw.choice(self.functions)
            act = draw.choices(ACTS, WEIGHTS)[0]
            self.calls += 1
            with contextlib.suppress(
                Closed, QueueFull, CancelledError, BatchAborted, TimeoutError, Deadlock
            ):
                act(self, f)

    def submit(self, f: Any) -> Any:
        item = ("main", next(self.numbers))
        future = f.options(timeout=0.5)(item)
        future.add_done_callback(self.ends.append)
        self.known[item] = (f, future)
        return future

    def wait(self, f: Any) -> None:
        future = self.submit(f)
        value = future.result(LIMIT)
        assert value[0] == "done"

    def cancel(self, f: Any) -> None:
        self.submit(f)
        self.submit(f).cancel()

    def flush(self, f: Any) -> None:
        self.submit(f)
        f.flush(LIMIT)

    def map(self, f: Any) -> None:
        items = [("map", next(self.numbers)) for _ in range(11)]
        assert list(f.map(items)) == [("done", item) for item in items]

    def map_some(self, f: Any) -> None:
        for _ in f.map(("map", next(self.numbers)) for _ in range(9)):
            break

    def look(self, f: Any) -> None:
        check_stats(f)

    def limit(self, f: Any) -> None:
        f.size = self.random.randint(2, 8)

    def restart(self, f: Any) -> None:
        try:
            f.close(LIMIT, cancel=self.random.random() < 0.5)
        finally:
            f.start()

    # ---- the other threads, which must not be affected ----

    def other(self, seed: int) -> None:
        draw = random.Random(seed)
        while not self.is_over:
            f = draw.choice(self.functions)
            item = ("other", next(self.numbers))
            try:
                value = f(item).result(LIMIT)
            except BatchAborted:  # the item ran in the main thread
                assert f is self.functions[CALLER]
                continue
            except Closed:
                time.sleep(0.001)
                continue
            assert value == ("done", item), (item, value)
            self.others += 1

    async def on_loop(self, seed: int) -> None:
        draw = random.Random(seed)
        while not self.is_over:
            f = draw.choice(self.functions)
            items = [("loop", next(self.numbers)) for _ in range(3)]
            try:
                calls = asyncio.gather(*[f(item) for item in items])
                values = await asyncio.wait_for(calls, LIMIT)
            except BatchAborted:  # as above
                continue
            except Closed:
                await asyncio.sleep(0.001)
                continue
            assert values == [("done", item) for item in items], (items, values)
            self.others += 3

    # ---- what must hold at the end ----

    def check(self) -> None:
        for f in self.functions:
            f.start()
            if f.linger is not None and f(probe := ("probe", 1)).result(LIMIT) != ("done", probe):
                raise AssertionError(f"{f.__name__}: the probe got another value")
            f.flush(LIMIT)
        for item, (f, future) in self.known.items():
            assert future.done(), f"{item} of {f._options().name} is never done"
            if not future.cancelled() and future.exception(0) is None:
                assert future.result(0) == ("done", item)
                assert self.ran[item] == 1, f"{item} ran {self.ran[item]} times"
        assert len(self.ends) == len(set(self.ends)), "a callback was called twice"
        told = set(self.ends)
        silent = [item for item, (_, future) in self.known.items() if future not in told]
        assert not silent, f"callbacks never called: {silent[:5]}"
        del self.ran["probe", 1]
        twice = [item for item, times in self.ran.items() if times > 1]
        assert not twice, f"ran twice: {twice[:5]}"
        for f in self.functions:
            stats = check_stats(f)
            assert stats.pending + stats.running == 0, stats
            f.close(LIMIT)
            assert check_stats(f).workers == 0


def check_stats(f: Any) -> Any:
    stats = f.stats()
    ended = stats.succeeded + stats.failed + stats.cancelled + stats.expired
    assert stats.accepted == ended + stats.pending + stats.running, stats
    return stats


ACTS = (
    Storm.submit, Storm.wait, Storm.cancel, Storm.flush, Storm.map, Storm.map_some, Storm.look,
    Storm.limit, Storm.restart,
)  # fmt: skip
WEIGHTS = (20, 20, 12, 6, 5, 3, 2, 2, 1)


def storm(interrupts: int, seconds: float, seed: int, pause: float = 0.0005) -> Storm:
    """Run until the number of interrupts or seconds is reached, then check."""
    made = Storm(seed)
    before = signal.signal(signal.SIGINT, made.handle)
    log = logging.getLogger("batchify")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)  # interrupted callbacks are logged
    calls = [in_thread(made.other, seed + n) for n in range(2)]
    calls.append(in_thread(lambda: asyncio.run(made.on_loop(seed))))
    sender = subprocess.Popen(
        [sys.executable, "-S", "-c", SENDER, str(os.getpid()), str(seed), str(pause)]
    )
    try:
        made.main(interrupts, seconds)
        for f in made.functions:
            f.start()
            f.flush(LIMIT)
    finally:
        made.is_over = True
        sender.kill()
        sender.wait()
        signal.signal(signal.SIGINT, before)
        log.setLevel(level)
    for call in calls:
        call.result(2 * LIMIT)
    in_thread(made.check).result(2 * LIMIT)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interrupts", type=int, default=100_000)
    parser.add_argument("--seconds", type=float, default=3600.0, help="maximum run time in seconds")
    parser.add_argument("--seed", type=int, default=None)
    given = parser.parse_args()
    seed = random.randrange(1 << 32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    faulthandler.dump_traceback_later(given.seconds + 4 * LIMIT, exit=True)
    began = time.monotonic()
    made = storm(given.interrupts, given.seconds, seed)
    print(
        f"{made.interrupts} SIGINTs, {made.raised} raised, in {time.monotonic() - began:.0f} s: "
        f"{made.calls} calls of the main thread, {made.others} items of other threads"
    )


if __name__ == "__main__":
    main()
