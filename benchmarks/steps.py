"""Count the bytecode steps of one call of a sequential caller, function by function.

    python -m benchmarks.steps                    # the totals of all paths
    python -m benchmarks.steps --top 20 threads   # and the functions that take most steps

A trace function in all threads counts the steps. They do not depend on the load of the machine, but
they differ between Python versions. The caller sleeps between its calls, so that the workers sleep
too.
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
PAUSE = 0.01  # seconds between calls, in which the workers go to sleep


class Steps:
    """Counts the steps and the calls of each function while `is_on`."""

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
    """Call from one thread, one call after the other."""

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
    """Call from one coroutine, one call after the other; the steps of the loop count too."""

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


PATHS: dict[str, tuple[Callable[[type[Rival], Steps], None], type[Rival]]] = {
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
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help=f"default: all of {', '.join(PATHS)}"
    )
    parser.add_argument(
        "--top", type=int, default=0, help="also show the functions with the most steps"
    )
    given = parser.parse_args()
    if unknown := set(given.paths) - set(PATHS):
        parser.error(f"unknown: {', '.join(unknown)}; choose from {', '.join(PATHS)}")
    print("| one call | steps | Python calls |\n|---|--:|--:|")
    for path in given.paths or PATHS:
        run, kind = PATHS[path]
        steps = Steps()
        run(kind, steps)
        print(
            f"| {path} | {steps.steps.total() / CALLS:,.0f} | {steps.calls.total() / CALLS:,.0f} |"
        )
        for code, count in steps.steps.most_common(given.top):
            place = f"{Path(code.co_filename).stem}.{code.co_qualname}"
            print(f"| - {place} | {count / CALLS:,.0f} | {steps.calls[code] / CALLS:,.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
