"""Batches that hang delay the exit by at most `exit_timeout`: contract 6 and 8."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from textwrap import dedent

import pytest

from tests.reliability.exit_scripts import EXIT_TIMEOUT, Runner


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def test_a_thread_left_behind_is_not_held_by_hanging_batches(run: Runner) -> None:
    """Its calls wait for their items, as the process does, all within one `exit_timeout`."""
    late = """
        @batched(exit_timeout=1.0, size=1)
        def f(items):
            if items != [0]:
                time.sleep(1000)

        def go_on():
            threading.main_thread().join()
            for n in range(1, 30):
                try:
                    f(n)
                except RuntimeError:
                    note("refused", "f", [n])

        f(0).result()
        threading.Thread(target=go_on).start()
        leaving()
    """
    end = run(dedent(late))
    assert end.code == 0
    assert "Traceback" not in end.stderr
    assert len(end.warnings) == 1


HANGING = """
options = {"size": 2, "exit_timeout": float(sys.argv[1])}

@batched(**options)
def sleeps(items):
    note("begun", "sleeps", items)
    time.sleep(1000)

@batched(**options)
def deaf(items):
    note("begun", "deaf", items)
    while True:
        try:
            threading.Event().wait(1000)
        except BaseException:
            pass

@batched(**options)
def yields(items):
    note("begun", "yields", items)
    yield "first"
    time.sleep(1000)

@batched(**options)
async def awaits(items):
    note("begun", "awaits", items)
    await asyncio.sleep(1000)

@batched(size=2)
def good(items):
    note("done", "good", items)

FUNCTIONS = {"sleeps": sleeps, "deaf": deaf, "yields": yields, "awaits": awaits}
futures = []

def begun(who):
    return os.path.exists("begun") and who in open("begun").read()

@atexit.register  # after the library's own, which comes with the first call
def look():
    if futures:
        note("ends", "", [type(f.exception(0)).__name__ for f in futures])

def hang():
    for who, f in FUNCTIONS.items():
        futures.extend(f(n) for n in range(1 if who == "yields" else 2))
        until(lambda: begun(who))
        futures.append(f(2))
    call("good", good, 1)
    leaving()
"""


@pytest.mark.parametrize("exit_timeout", [EXIT_TIMEOUT, pytest.param(15.0, marks=pytest.mark.deep)])
def test_batches_that_hang_do_not_hold_the_process(run: Runner, exit_timeout: float) -> None:
    """All within one `exit_timeout`: the waits do not add up."""
    end = run(HANGING, "hang()", arguments=[str(exit_timeout)])
    assert end.code == 0
    end.expect_processed(1)
    assert end.seconds >= exit_timeout
    if exit_timeout > EXIT_TIMEOUT:  # enough time even on a busy machine
        assert end.seconds < 4 * exit_timeout
    # `yields` gave its first item a result.
    counts = {"sleeps": 3, "deaf": 3, "yields": 1, "awaits": 3}
    assert len(end.warnings) == len(counts), end.stderr
    for who, count in counts.items():
        (line,) = (line for line in end.warnings if f"RuntimeWarning: {who}: " in line)
        assert f" {count} item" in line
    for noise in ("Traceback", "Exception ignored", "never retrieved", "destroyed"):
        assert noise not in end.stderr, end.stderr
    assert Counter(line.strip() for line in end.lines("ends")) == {"Closed": 10, "NoneType": 1}


def test_an_async_batch_that_blocks_its_loop_does_not_hold_the_process(run: Runner) -> None:
    blocks = """
        @batched(exit_timeout=float(sys.argv[1]))
        async def blocks(items):
            note("begun", "blocks", items)
            time.sleep(1000)

        @batched(exit_timeout=float(sys.argv[1]))
        async def shares(items):  # the loop in the background is one for all functions
            note("done", "shares", items)

        kept += [blocks(1)]
        until(lambda: os.path.exists("begun"))
        kept += [shares(1)]
        leaving()
    """
    end = run(dedent(blocks), arguments=[str(EXIT_TIMEOUT)])
    assert end.code == 0
    assert end.seconds >= EXIT_TIMEOUT
    assert len(end.warnings) == 2
    assert "Traceback" not in end.stderr


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_batch_that_hangs_does_not_hold_a_child(run: Runner, method: str) -> None:
    parent = """
        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[2])
            child = context.Process(target=hang)
            child.start()
            child.join()
            assert child.exitcode == 0, child.exitcode
    """
    end = run(HANGING, dedent(parent), arguments=[str(EXIT_TIMEOUT), method])
    assert end.code == 0
    end.expect_processed(1)
    assert len(end.warnings) == 4
    assert "Traceback" not in end.stderr


def test_a_timeout_of_nothing(run: Runner) -> None:
    """The exit waits for nothing; the process ends, and reports the remaining items."""
    end = run(HANGING, "hang()", arguments=["0"])
    assert end.code == 0
    assert len(end.warnings) >= 4
    assert "Traceback" not in end.stderr


def test_warnings_as_errors_do_not_stop_the_end(run: Runner) -> None:
    """Each function is still given up, and the code of the process is not touched."""
    end = run(HANGING, 'import warnings; warnings.simplefilter("error"); hang()', arguments=["0.1"])
    assert end.code == 0
    assert Counter(line.strip() for line in end.lines("ends")) == {"Closed": 10, "NoneType": 1}
