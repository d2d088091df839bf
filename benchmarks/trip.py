"""Record which functions of batchify run for one item, from its submit to its result.

    python -m benchmarks.trip                     # one line for each path, and every call in order

The item is the only one, after a warm-up, and the workers sleep when it is submitted. A profile
function in all threads records the calls. The switch interval is so long that a thread runs until
it blocks, so the calls and their order do not depend on the load of the machine (with a GIL). They
differ between Python versions: up to 3.11, a comprehension is a call.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeVar

import batchify
from batchify import batched

from .functions import abare

ROOT = Path(batchify.__file__).parent
WARM_UP, TRIPS = 20, 9
PAUSE = 0.02  # seconds, in which the workers go to sleep
UNTIL_IT_BLOCKS = 1000.0  # seconds, as the switch interval
T = TypeVar("T")


class Call(NamedTuple):
    """One call of a function of batchify, or one resumption of a generator or coroutine."""

    thread: int  # 0 is the caller's
    file: str
    function: str


class Trip(NamedTuple):
    """The calls of one item, thread by thread."""

    calls: tuple[Call, ...]

    @property
    def functions(self) -> int:
        return len({call[1:] for call in self.calls})

    @property
    def files(self) -> int:
        return len({call.file for call in self.calls})

    @property
    def moves(self) -> int:
        """How often a call is in another file than the call before it in the same thread."""
        return sum(
            before.thread == after.thread and before.file != after.file
            for before, after in zip(self.calls, self.calls[1:], strict=False)
        )


class Recorder:
    """Records the calls in all threads that have its `profile` as their profile function."""

    def __init__(self, root: Path = ROOT) -> None:
        self.root = f"{root}/"
        self.is_on = False
        self.seen: dict[int, list[tuple[str, str]]] = {}  # by thread

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if self.is_on and event == "call" and code.co_filename.startswith(self.root):
            file = code.co_filename.removeprefix(self.root)
            self.seen.setdefault(threading.get_ident(), []).append((file, code.co_qualname))

    def start(self) -> None:
        self.seen = {threading.get_ident(): []}
        self.is_on = True

    def stop(self) -> Trip:
        self.is_on = False
        return Trip(
            tuple(
                Call(number, *call) for number, own in enumerate(self.seen.values()) for call in own
            )
        )


def echo(items: list[Any]) -> list[Any]:
    """Return the items. Fail in a thread that is not recorded, because the trip would be short."""
    assert sys.getprofile() is not None, "threads must be started with `threading.Thread`"
    return items


def in_thread(recorder: Recorder) -> Iterator[Trip]:
    """Submit one item after the other to a `def`; yield the trip of each."""
    call = batched(echo)
    for number in range(WARM_UP + TRIPS):
        time.sleep(PAUSE)
        recorder.start()
        call(number).result()
        time.sleep(PAUSE)
        yield recorder.stop()


def on_loop(recorder: Recorder) -> Iterator[Trip]:
    """Do the same with an `async def`."""
    call = batched(abare)

    async def one(number: int) -> Trip:
        await asyncio.sleep(PAUSE)
        recorder.start()
        await call(number)
        await asyncio.sleep(PAUSE)
        return recorder.stop()

    with asyncio.Runner() as runner:
        for number in range(WARM_UP + TRIPS):
            yield runner.run(one(number))


PATHS: dict[str, Callable[[Recorder], Iterator[Trip]]] = {"def": in_thread, "async def": on_loop}


def usual_trip(path: str) -> Trip:
    """Return the most frequent trip of a path.

    Call it in a new process: a thread of batchify that has started before is not recorded.
    """
    recorder = Recorder()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(UNTIL_IT_BLOCKS)
    threading.setprofile(recorder.profile)
    sys.setprofile(recorder.profile)
    try:
        trips = list(PATHS[path](recorder))[WARM_UP:]
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
        sys.setswitchinterval(interval)
    return Counter(trips).most_common(1)[0][0]


def in_new_process(function: Callable[..., T], *args: Any) -> T:
    """Return what `function` returns in a process in which batchify has not run yet."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def described(trip: Trip) -> str:
    return (
        f"{len(trip.calls)} calls of {trip.functions} functions in {trip.files} files, "
        f"{trip.moves} moves from file to file"
    )


def listed(trip: Trip) -> Iterator[str]:
    """Yield a line for each call, and for each thread and file before its first call."""
    before = Call(-1, "", "")
    for call in trip.calls:
        if call.thread != before.thread:
            yield f"  thread {call.thread}"
        if call[:2] != before[:2]:
            yield f"    {call.file}"
        yield f"      {call.function}"
        before = call


def main() -> int:
    for path in PATHS:
        trip = in_new_process(usual_trip, path)
        print(f"{path}: {described(trip)}", *listed(trip), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
