"""One cell of the exit matrix: a process that exits in one way while a function is in one state.

    EXIT_CELL="PATH|KIND|STATE|REPEAT" python exit_cell.py

It records, in files of its directory, which items were accepted, which ones batches processed, when
the process began to exit, and how each future ended. `exit_matrix` starts it and checks the files.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from batchify import BatchFuture, batched
from tests.limits import LIMIT

MANY = 300  # items that linger, or wait for a batch to end
PAUSE = 0.05  # seconds that a batch takes after the process began to exit
EXIT_TIMEOUT = 0.3  # of functions that hang
NO_END = 1000.0  # seconds: a linger or `exit_timeout` that a process must not wait for
STATES: dict[str, dict[str, Any]] = {
    "idle": {},
    "lingering": {"size": 5000},
    "mid-batch": {"size": 5000},  # one item runs, MANY wait for it
    # Two items run, two wait, one caller is blocked.
    "full": {"size": 2, "capacity": 4, "linger": NO_END},
    "hung": {"size": 2, "exit_timeout": EXIT_TIMEOUT},  # one runs forever, two wait
}
NEVER = threading.Event()
# gh-113964: on 3.12.0 to 3.12.2 no thread starts once the main thread has ended.
NO_LATE_THREADS = (3, 12, 0) <= sys.version_info < (3, 12, 3)

PATH, KIND, STATE, _repeat = os.environ.get("EXIT_CELL", "|||0").split("|")
REPEAT = int(_repeat)

kept: list[tuple[str, BatchFuture[Any]]] = []
begun, gate = threading.Event(), threading.Event()

# ---- the record ----


def note(file: str, lines: list[str]) -> None:
    """Write a line in one call, so that threads and processes do not mix their lines."""
    written = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(written, "".join(line + "\n" for line in lines).encode())
    finally:
        os.close(written)


def call(f: Any, item: str) -> BatchFuture[Any]:
    future: BatchFuture[Any] = f(item)
    kept.append((item, future))
    note("accepted", [item])
    return future


def try_call(f: Any, item: str) -> None:
    """Call the function, which may have been given up already."""
    try:
        call(f, item)
    except RuntimeError as error:  # Closed, QueueFull, no thread available
        note("refused", [f"{item} {type(error).__name__}"])


def leave() -> None:
    time.sleep(REPEAT % 7 / 1000)  # not always at the same instant
    note("left", [str(time.monotonic())])
    gate.set()


def look() -> None:
    """Record how all futures ended, as the very last action of the process."""
    ends = []
    for item, future in kept:
        if not future.done():
            end = "pending"
        elif future.cancelled():
            end = "cancelled"
        else:
            error = future.exception(0)
            end = "result" if error is None else type(error).__name__
        ends.append(f"{item} {end}")
    note("ends", ends)


class Last:
    """A stream that a child of multiprocessing flushes as its last action."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None:
        if "looked" not in self.__dict__ and gate.is_set():
            self.looked = True
            look()


# ---- the functions ----


def work(items: list[str]) -> None:
    begun.set()
    if STATE == "hung":
        NEVER.wait()
    if STATE in ("mid-batch", "full"):
        gate.wait(LIMIT)
        time.sleep(PAUSE)
    note("done", items)


async def awork(items: list[str]) -> None:
    begun.set()
    if STATE == "hung":
        await asyncio.sleep(1000)
    if STATE in ("mid-batch", "full"):
        while not gate.is_set():
            await asyncio.sleep(0.002)
        await asyncio.sleep(PAUSE)
    note("done", items)


def make() -> Callable[[str], BatchFuture[Any]]:
    """Return a function of KIND with the options of STATE; it was used once before."""
    options = {"exit_timeout": NO_END, **STATES[STATE]}
    if STATE == "lingering":
        options["linger"] = None if KIND in ("def", "async def") else NO_END
    if KIND == "def":
        return batched(work, name="f", **options)
    if KIND == "async def":
        return batched(awork, name="f", **options)
    if KIND == "method":

        class Owner:
            @batched(name="f", **options)
            def f(self, items: list[str]) -> None:
                work(items)

        method: Any = Owner().f
        return method
    if PATH == "asyncio.run":
        atail = batched(awork, name="tail", **options)

        @batched(name="f", **options)
        async def af(items: list[str]) -> None:
            for future in [call(atail, item + "-tail") for item in items]:
                await future
            note("done", items)

        return af

    @batched(name="tail", **options)
    def tail(items: list[str]) -> None:
        if items != ["warm"]:
            work(items)

    tail("warm")
    tail.flush(LIMIT)  # 3.12.0 to 3.12.2 start no thread during exit

    @batched(name="f", **options)
    def f(items: list[str]) -> None:
        for future in [call(tail, item + "-tail") for item in items]:
            future.result()
        note("done", items)

    return f


@batched(name="good", linger=NO_END, exit_timeout=NO_END)
def good(items: list[str]) -> None:
    """Use a pool, a resolver and a child process, whatever the other function does."""
    if not NO_LATE_THREADS:
        from concurrent.futures import ThreadPoolExecutor

        async def resolve() -> None:
            await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80)

        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, resolve()).result()
    subprocess.run(["true"], check=True)
    note("done", items)


# ---- the states ----


def fill() -> Any:
    f = make()
    call(good, "good")
    if STATE == "idle":
        call(f, "0").result(LIMIT)
    elif STATE == "lingering":
        [call(f, str(n)) for n in range(MANY)]
    elif STATE == "mid-batch":
        call(f, "first")
        assert begun.wait(LIMIT)
        [call(f, str(n)) for n in range(MANY)]
    elif STATE == "full":
        [call(f, str(n)) for n in range(4)]
        assert begun.wait(LIMIT)
        threading.Thread(target=call, args=(f, "blocked")).start()
        while not f.stats().submitted >= 5:
            time.sleep(0.001)
    else:
        call(f, "0")
        assert begun.wait(LIMIT)
        call(f, "1"), call(f, "2")
    return f


async def afill() -> Any:
    f = make()
    call(good, "good")
    if STATE == "idle":
        await call(f, "0")
        return f
    if STATE in ("mid-batch", "hung"):
        call(f, "first")
        while not begun.is_set():
            await asyncio.sleep(0.001)
    count = {"lingering": MANY, "mid-batch": MANY, "full": 5, "hung": 2}[STATE]
    [call(f, str(n)) for n in range(count)]  # a fifth one waits without blocking
    while STATE == "full" and not begun.is_set():
        await asyncio.sleep(0.001)
    return f


# ---- the paths ----


def leave_by_asyncio() -> None:
    async def main() -> None:
        await afill()
        leave()

    asyncio.run(main())


def leave_by_fork() -> None:
    first = batched(lambda items: items)
    assert first("parent").result(LIMIT) == "parent"
    child = os.fork()
    if not child:
        fill()
        leave()
        sys.exit(5)
    status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == 5, status
    assert first("parent").result(LIMIT) == "parent"


def child_of_multiprocessing() -> None:
    sys.stdout = Last()  # type: ignore[assignment]
    fill()
    leave()


def leave_by_multiprocessing(method: str) -> None:
    import multiprocessing

    first = batched(lambda items: items)
    assert first("parent").result(LIMIT) == "parent"
    child: Any = multiprocessing.get_context(method)
    child = child.Process(target=child_of_multiprocessing)
    child.start()
    child.join(LIMIT)
    assert child.exitcode == 0, child.exitcode
    assert first("parent").result(LIMIT) == "parent"


def leave_by_signal(number: signal.Signals) -> None:
    fill()
    leave()
    os.kill(os.getpid(), number)
    NEVER.wait()


def leave_a_thread_behind() -> None:
    """Exit while another thread submits; it continues after main has ended."""

    def go_on() -> None:
        for n in range(1000):
            try_call(f, f"early-{n}")
            time.sleep(0.003)
            if not threading.main_thread().is_alive():
                break
        for n in range(3):
            try_call(f, f"late-{n}")

    f = fill()
    if STATE == "full":  # the queue is full, so it blocks until the exit has begun
        gate.wait(0.01)
    threading.Thread(target=go_on).start()
    leave()


def leave_to_atexit() -> None:
    """Exit with `atexit` functions that run before and after the library's own hook."""
    functions: list[Any] = []

    def submit(when: str) -> None:
        for n in range(3):
            try_call(functions[0], f"{when}-{n}")

    atexit.register(submit, "after")
    functions.append(fill())
    atexit.register(submit, "before")
    leave()


def main() -> None:
    if PATH in ("return", "sys.exit", "error", "os._exit"):
        fill()
        leave()
        if PATH == "sys.exit":
            sys.exit(3)
        if PATH == "error":
            raise ValueError("this is how it ends")
        if PATH == "os._exit":
            os._exit(6)
    elif PATH == "SIGINT":
        # A process that a shell started in the background ignores SIGINT, and so do its children.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        leave_by_signal(signal.SIGINT)
    elif PATH == "handled SIGTERM":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
        leave_by_signal(signal.SIGTERM)
    elif PATH == "SIGTERM":
        leave_by_signal(signal.SIGTERM)
    elif PATH == "asyncio.run":
        leave_by_asyncio()
    elif PATH == "os.fork":
        leave_by_fork()
    elif PATH == "thread":
        leave_a_thread_behind()
    elif PATH == "atexit":
        leave_to_atexit()
    else:
        leave_by_multiprocessing(PATH)


if __name__ == "__main__":
    atexit.register(look)  # the function registered first runs last
    main()
