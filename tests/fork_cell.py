"""One cell of the fork matrix: a process that forks repeatedly, always at one critical moment.

    FORK_CELL="MOMENT|KIND|FORKS" python fork_cell.py

Batches record in a file which process ran which items. Each child checks its state, uses the
function, submits an item that must run at its exit, and exits. The parent continues, and checks the
file.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from batchify import BatchFuture, Closed, Forked, batched
from tests.limits import LIMIT

CODE = 7  # the exit code of a child without findings
PARENT = os.getpid()
OPTIONS: dict[str, dict[str, Any]] = {
    "lingering": {"linger": 1000},
    "mid-batch": {"size": 2},
    "blocked": {"size": 1, "capacity": 2},
    "closing": {"size": 2},
}
MOMENT, KIND, _forks = os.environ.get("FORK_CELL", "||0").split("|")


def note(lines: list[Any]) -> None:
    """Write a line in one call, so that threads and processes do not mix their lines."""
    written = os.open("ran", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(written, "".join(f"{os.getpid()} {line}\n" for line in lines).encode())
    finally:
        os.close(written)


def until(fact: Callable[[], Any]) -> None:
    end = time.monotonic() + LIMIT
    while not fact():
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.001)


def is_without_workers() -> bool:
    gc.collect()  # each time, because an ending thread may have kept garbage alive
    return not any(thread.name.startswith("batchify") for thread in threading.enumerate())


class Round:
    """A function, and one fork.

    Its gates are flags, because a thread that the child lacks might hold a lock.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.is_open = True
        self.begun = 0
        self.inside: Callable[[], None] | None = None  # the first batch calls it
        self.futures: list[BatchFuture[Any]] = []
        self.called: list[int] = []  # processes in which a callback ran
        self.children: list[Any] = []
        self.f = self.make(OPTIONS.get(MOMENT, {}))

    def make(self, options: dict[str, Any]) -> Any:
        def work(items: list[Any]) -> list[Any]:
            self.begin()
            while not self.is_open:
                time.sleep(0.001)
            note(items)
            return items

        async def awork(items: list[Any]) -> list[Any]:
            self.begin()
            while not self.is_open:
                await asyncio.sleep(0.001)
            note(items)
            return items

        if KIND == "method":

            class Owner:
                @batched(**options)
                def f(self, items: list[Any]) -> list[Any]:
                    return work(items)

            self.owner = Owner()
            return self.owner.f
        return batched(awork if KIND == "async def" else work, **options)

    def begin(self) -> None:
        self.begun += 1
        inside, self.inside = self.inside, None
        if inside is not None:
            inside()

    def item(self, name: object) -> str:
        return f"{self.number}-{name}"

    def call(self, name: object) -> BatchFuture[Any]:
        future: BatchFuture[Any] = self.f(self.item(name))
        future.add_done_callback(lambda _: self.called.append(os.getpid()))
        self.futures.append(future)
        return future

    def call_in_thread(self, name: object) -> threading.Thread:
        thread = threading.Thread(target=self.call, args=(name,))
        thread.start()
        return thread

    # ---- the child ----

    def child(self) -> None:
        """Check the state in the child, and use the function; raise if anything is wrong."""
        signal.alarm(int(LIMIT))  # kills a hung child
        assert os.getpid() != PARENT
        assert gc.isenabled(), "the garbage collector is off"
        f, copied, before = self.f, [x for x in self.futures if x.done()], list(self.called)
        stats = f.stats()
        assert stats.accepted == stats.submitted == stats.running == stats.workers == 0, stats
        ends = [type(future.exception(0)) for future in copied]
        assert ends == [Forked if MOMENT != "idle" else type(None)] * len(self.futures), ends
        for future in self.futures:
            assert not future.cancel()
            if MOMENT != "idle":
                check_forked(future)
        if MOMENT == "closing":
            f.start()
        self.is_open = True
        items = [self.item(f"child-{n}") for n in range(3)]
        futures = [f(item) for item in items]
        f.flush(LIMIT)
        assert [future.result(0) for future in futures] == items
        stats = f.stats()
        assert stats.accepted == stats.succeeded == 3, stats
        assert self.called == before, "a callback of the parent ran"
        f.linger = 1000
        self.last = f(self.item("child-last"))  # its exit runs it

    def fork(self) -> None:
        """Fork; the child does its part and exits."""
        child = os.fork()
        if not child:
            self.child()
            sys.exit(CODE)
        self.children.append(child)

    def fork_inside(self) -> None:
        """Fork where the child cannot exit; multiprocessing ends it."""
        process: Any = multiprocessing.get_context("fork")
        process = process.Process(target=self.child_inside)
        process.start()
        self.children.append(process)

    def child_inside(self) -> None:
        self.child()
        sys.exit(CODE)

    # ---- the moments ----

    def idle(self) -> None:
        self.call("done").result(LIMIT)
        until(lambda: self.called)
        self.fork()

    def lingering(self) -> None:
        [self.call(n) for n in range(3)]
        self.fork()

    def mid_batch(self) -> None:
        self.is_open = False
        [self.call(n) for n in range(5)]
        until(lambda: self.begun)
        self.fork()

    def blocked(self) -> None:
        self.is_open = False
        self.call(0), self.call(1)
        until(lambda: self.begun)
        blocked = self.call_in_thread("blocked")
        until(lambda: self.f.stats().submitted == 3)
        self.fork()
        self.is_open = True
        blocked.join(LIMIT)

    def lock(self) -> None:
        """Fork while another thread holds all locks."""
        self.is_open = False
        self.call(0)
        until(lambda: self.begun)
        self.call(1)
        scope: Any = self.f._scope()
        locks = [engine._lock for engine in scope.engines()]
        if KIND == "async def":
            import batchify.engine.background as background

            locks += [scope._lock, background._lock]
        held = False

        def hold() -> None:
            nonlocal held
            for lock in locks:
                lock.acquire()
            held = True
            while not self.children:
                time.sleep(0.001)
            for lock in locks:
                lock.release()

        holder = threading.Thread(target=hold)
        holder.start()
        until(lambda: held)
        self.fork()
        holder.join(LIMIT)

    def closing(self) -> None:
        self.is_open = False
        [self.call(n) for n in range(3)]
        until(lambda: self.begun)
        closing = threading.Thread(target=self.f.close)
        closing.start()
        until(self.is_refused)
        self.fork()
        self.is_open = True
        closing.join(LIMIT)

    def is_refused(self) -> bool:
        try:
            self.f(self.item("probe")).cancel()
        except Closed:
            return True
        return False

    def starting(self) -> None:
        """Fork while another thread starts the first worker and holds the lock."""
        until(is_without_workers)  # and without the background loop of the previous round
        start, is_starting, is_forked = threading.Thread.start, False, False

        def slow_start(thread: threading.Thread) -> None:
            nonlocal is_starting
            if thread.name.startswith("batchify") and os.getpid() == PARENT:
                is_starting = True
                until(lambda: is_forked)
            start(thread)

        starter = threading.Thread(target=self.call, args=(0,))
        threading.Thread.start = slow_start  # type: ignore[method-assign]
        try:
            start(starter)
            until(lambda: is_starting)
            self.fork()
        finally:
            is_forked = True
            threading.Thread.start = start  # type: ignore[method-assign]
        starter.join(LIMIT)

    def inside_batch(self) -> None:
        self.inside = self.fork_inside
        self.is_open = False
        self.call(0)
        until(lambda: self.children)
        self.call(1)

    def inside_callback(self) -> None:
        self.is_open = False
        future = self.f(self.item(0))
        until(lambda: self.begun)
        future.add_done_callback(lambda _: self.fork_inside())
        self.call(1)
        self.is_open = True
        until(lambda: self.children)

    def inside_loop(self) -> None:
        """Fork inside an async batch on this thread's loop, or while a loop runs."""

        async def main() -> None:
            self.inside = self.fork_inside
            self.is_open = False
            self.call(0)
            while not self.children:
                await asyncio.sleep(0.001)
            self.call(1)
            self.is_open = True
            await self.f.aflush(LIMIT)

        asyncio.run(main())

    # ---- one round ----

    def run(self) -> None:
        moments = {
            "idle": self.idle,
            "lingering": self.lingering,
            "mid-batch": self.mid_batch,
            "blocked": self.blocked,
            "lock": self.lock,
            "closing": self.closing,
            "starting": self.starting,
            "batch": self.inside_batch,
            "callback": self.inside_callback,
            "loop": self.inside_loop,
        }
        moments[MOMENT]()
        [child] = self.children
        if isinstance(child, int):
            wait_for(child)
        else:
            child.join(LIMIT)
            assert child.exitcode == CODE, f"the child ended with {child.exitcode}"
        self.is_open = True
        self.f.flush(LIMIT)
        assert all(future.exception(LIMIT) is None for future in self.futures)
        until(lambda: len(self.called) == len(self.futures))
        assert set(self.called) == {PARENT}
        self.f.start()  # closing
        after = self.f(self.item("after"))
        self.f.close(LIMIT)
        assert after.result(0) == self.item("after")
        self.judge()

    def judge(self) -> None:
        """Check that each item ran once, in the process that submitted it."""
        mine: Counter[str] = Counter()
        theirs: Counter[str] = Counter()
        with open("ran") as file:
            for line in file:
                pid, item = line.split()
                if item.startswith(f"{self.number}-"):
                    (mine if int(pid) == PARENT else theirs)[item.partition("-")[2]] += 1
        count = {"idle": 1, "lingering": 3, "mid-batch": 5, "blocked": 3, "closing": 3}
        expected = count.get(MOMENT, 1 if MOMENT == "starting" else 2) + 1
        assert len(mine) == mine.total() == expected, mine
        assert theirs == Counter(["child-0", "child-1", "child-2", "child-last"]), theirs


def check_forked(future: BatchFuture[Any]) -> None:
    """Check that `result()` and `await` raise, and that callbacks added now are called."""
    late: list[Any] = []
    future.add_done_callback(late.append)
    assert late == [future]

    async def wait() -> Any:
        return await future

    for get in (lambda: future.result(0), lambda: asyncio.run(wait())):
        try:
            get()
        except Forked:
            continue
        raise AssertionError("no Forked")


def wait_for(child: int) -> None:
    end = time.monotonic() + LIMIT + 2
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            raise AssertionError("the child hung")
        time.sleep(0.002)
    code = os.waitstatus_to_exitcode(status)
    assert code == CODE, f"the child ended with {code}"


if __name__ == "__main__":
    for number in range(int(_forks)):
        Round(number).run()
    print("well")
