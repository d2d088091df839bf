"""The exit of a process with event loops: contract 6 and 8."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from tests.reliability.exit_scripts import Runner


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def test_the_end_of_asyncio_run(run: Runner) -> None:
    """Queued items of `async def` run before the loop closes; lingers of `def` continue."""
    loops = """
        @batched(linger=1000)
        async def lingers(items):
            await asyncio.sleep(0.01)
            note("done", "lingers", items)

        @batched(size=2, capacity=2, linger=1000)
        async def full(items):
            note("done", "full", items)

        @batched(linger=1000)
        async def chain(items):
            note("done", "chain", items)
            [call("tail", tail, item) for item in items]

        @batched(linger=1000)
        async def tail(items):
            note("done", "tail", items)

        @batched(linger=1000)
        def threaded(items):
            note("done", "threaded", items)

        async def main(round):
            [call("lingers", lingers, (round, n)) for n in range(3)]
            [call("full", full, (round, n)) for n in range(5)]
            call("chain", chain, (round, 0))
            future = call("threaded", threaded, (round, 0))
            note("left", time.monotonic(), [""])
            return future

        first = asyncio.run(main(1))
        assert not first.done()
        assert threaded.stats().pending == 1
        second = asyncio.run(main(2))
        assert not second.done()
        leaving()
    """
    end = run(dedent(loops))
    end.expect_quiet()
    end.expect_processed(22)


def test_the_end_of_asyncio_run_ends_running_batches(run: Runner) -> None:
    """Their items end in `BatchAborted`; also when main was ended by an error or by Ctrl-C."""
    loops = """
        async def main(end):
            begun = asyncio.Event()

            @batched(size=1)
            async def f(items):
                begun.set()
                if items != ["waits"]:
                    await asyncio.sleep(1000)
                note("done", end, items)

            running, waiting = f("runs"), call(end, f, "waits")
            kept.append((running, waiting))
            await begun.wait()
            note("left", time.monotonic(), [""])
            if end == "error":
                raise ValueError
            if end == "interrupt":
                os.kill(os.getpid(), signal.SIGINT)
                await asyncio.sleep(1000)

        for end in ("return", "error", "interrupt"):
            try:
                asyncio.run(main(end))
            except (ValueError, KeyboardInterrupt):
                pass
            running, waiting = kept[-1]
            note("ends", end, [type(running.exception(0)).__name__, waiting.exception(0)])
        leaving()
    """
    end = run(dedent(loops))
    end.expect_quiet()
    ends = ("return", "error", "interrupt")
    assert end.lines("ends") == [
        f"{end} {kind}" for end in ends for kind in ("BatchAborted", "None")
    ]
    end.expect_processed(3)


def test_the_process_ends_while_a_loop_runs_in_another_thread(run: Runner) -> None:
    """Its items are processed; nothing is promised for a daemon's loop."""
    loops = """
        @batched(linger=1000)
        async def f(items):
            await asyncio.sleep(0.01)
            note("done", "f", items)

        async def main():
            [call("f", f, n) for n in range(3)]
            await asyncio.sleep(1000)

        threading.Thread(target=lambda: asyncio.run(main()), daemon=True).start()
        until(lambda: f.stats().pending == 3)
        leaving()
    """
    end = run(dedent(loops))
    end.expect_quiet()
    end.expect_processed(3)
