"""What a caller that is alone pays for: the steps of bytecode of one call, function by function.

    python -m benchmarks.steps                    # all ways, the totals
    python -m benchmarks.steps --top 20 threads   # and the functions that take most

Counted by a trace function in all threads: no busy machine changes them, but they differ between
versions of Python. The caller sleeps between its calls, so that the workers sleep, too.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from .adapters.base import Rival
from .adapters.batchify import Batchify
from .adapters.hand_written_asyncio import HandWrittenAsyncio
from .adapters.hand_written_threads import HandWrittenThreads
from .functions import abare, bare

CALLS = 20
PAUSE = 0.01  # seconds, in which the workers go to sleep


class Steps:
    """Counts the steps, and the calls, of each function while `is_on`."""

    def __init__(self) -> None:
        self.is_on = False
        self.steps: Counter[CodeType] = Counter()
        self.calls: Counter[CodeType] = Counter()

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "call":
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
            self.calls[frame.f_code] += self.is_on
        elif event == "opcode":
            self.steps[frame.f_code] += self.is_on
        return self.trace


def in_threads(kind: type[Rival], steps: Steps) -> None:
    """One thread, call by call."""

    def caller() -> None:
        for number in range(2 * CALLS):
            steps.is_on = number >= CALLS
            rival.submit(number).result()
            steps.is_on = False
            time.sleep(PAUSE)

    threading.settrace(steps.trace)
    try:
        rival = kind(bare, 64, 0.0, 2)
        thread = threading.Thread(target=caller)
        thread.start()
        thread.join()
        rival.close()
    finally:
        threading.settrace(None)  # type: ignore[arg-type]


def on_loop(kind: type[Rival], steps: Steps) -> None:
    """One coroutine, call by call; the loop's own steps count, too."""

    async def calls(rival: Rival) -> None:
        for number in range(CALLS):
            await rival.acall(number)

    async def main() -> None:
        rival = kind(abare, 64, 0.0, 2)
        await calls(rival)
        steps.is_on = True
        sys.settrace(steps.trace)
        try:
            await asyncio.create_task(calls(rival))
        finally:
            sys.settrace(None)
            steps.is_on = False
        await rival.aclose()

    asyncio.run(main())


WAYS: dict[str, tuple[Callable[[type[Rival], Steps], None], type[Rival]]] = {
    "threads": (in_threads, Batchify),
    "hand-written threads": (in_threads, HandWrittenThreads),
    "loop": (on_loop, Batchify),
    "hand-written asyncio": (on_loop, HandWrittenAsyncio),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.steps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("ways", nargs="*", metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--top", type=int, default=0, help="how many functions of each to show")
    given = parser.parse_args()
    if unknown := set(given.ways) - set(WAYS):
        parser.error(f"there is no way {', '.join(unknown)}")
    print("| a lone call | steps | Python calls |\n|---|--:|--:|")
    for way in given.ways or WAYS:
        run, kind = WAYS[way]
        steps = Steps()
        run(kind, steps)
        print(
            f"| {way} | {steps.steps.total() / CALLS:,.0f} | {steps.calls.total() / CALLS:,.0f} |"
        )
        for code, count in steps.steps.most_common(given.top):
            place = f"{Path(code.co_filename).stem}.{code.co_qualname}"
            print(f"| - {place} | {count / CALLS:,.0f} | {steps.calls[code] / CALLS:,.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
