"""Accepted items are processed at exit, whatever submitted them: contract 6 and 8."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from tests.reliability.exit_scripts import LEAST, MATRIX, NO_LATE_THREADS, Runner


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def test_items_without_references_are_processed_too(run: Runner) -> None:
    end = run(MATRIX, "fill()\nkept.clear()")
    end.expect_quiet()
    end.expect_processed(LEAST)


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("when", ["idle", "busy"])
def test_items_without_references_and_limits_are_processed_too(
    run: Runner, kind: str, when: str
) -> None:
    """With `linger=None` neither a timer nor a batch keeps an item alive; the collector runs."""
    script = f"""
        import gc

        gate = threading.Event()

        def make():
            {kind} write(items):
                if items[0] < 0:
                    gate.wait()
                note("done", "dropped", items)

            return batched(write, size=3, linger=None)

        f = make()
        first = [call("dropped", f, n) for n in (-1, -2, -3)] if {when!r} == "busy" else []
        until(lambda: not first or f.stats().running)
        call("dropped", f, 1)
        f(2).cancel()
        gate.set()
        [future.result() for future in first]
        del f
        first.clear()
        gc.collect()
        gc.collect()
        leaving()
    """
    end = run(dedent(script))
    end.expect_quiet()
    end.expect_processed(4 if when == "busy" else 1)


def test_threads_that_continue_after_main(run: Runner) -> None:
    """Their items are processed also when they use a function for the first time then."""
    threads = """
        def go_on(kind, state):
            f, begun = make(kind, state)
            who = f"{kind}-{state}"
            if state == "lingers":
                kept.append(call(who, f, -1))
            threading.main_thread().join()
            for n in range(5):
                try_call(who, f, n)

        def main():
            for kind in KINDS:
                for state in ("idle", "lingers"):
                    threading.Thread(target=go_on, args=(kind, state)).start()
            until(lambda: len(kept) == len(KINDS))
            leaving()

        if __name__ == "__main__":
            main()
    """
    end = run(MATRIX, dedent(threads))
    end.expect_quiet()
    end.expect_processed(70)
    assert not end.lines("refused")


def test_threads_that_continue_in_a_child_of_multiprocessing(run: Runner) -> None:
    """No `atexit` there."""
    child = """
        @batched(linger=1000)
        def used(items):
            note("done", "used", items)

        @batched(linger=1000)
        def new(items):
            note("done", "new", items)

        def go_on(main_is_over):
            until(main_is_over)
            for f, who in ((used, "used"), (new, "new")):
                try_call(who, f, 1)

        def child():
            future = call("used", used, 0)
            threading.Thread(target=go_on, args=(future.done,)).start()
            leaving()

        if __name__ == "__main__":
            process = multiprocessing.get_context("fork").Process(target=child)
            process.start()
            process.join()
            assert process.exitcode == 0, process.exitcode
    """
    end = run(dedent(child))
    end.expect_quiet()
    end.expect_processed(3)


def test_items_that_batches_and_callbacks_submit_at_the_end(run: Runner) -> None:
    chains = """
        @batched(linger=1000)
        def countdown(items):
            note("done", "countdown", items)
            [call("countdown", countdown, item - 1) for item in items if item]

        @batched(linger=1000)
        async def acountdown(items):
            note("done", "acountdown", items)
            [call("acountdown", acountdown, item - 1) for item in items if item]

        @batched(linger=1000)
        def told(items):
            note("done", "told", items)

        call("countdown", countdown, 20)
        call("acountdown", acountdown, 20)
        future = call("countdown", countdown, 0)
        future.add_done_callback(lambda _: try_call("told", told, 1))
        leaving()
    """
    end = run(dedent(chains))
    end.expect_quiet()
    end.expect_processed(44)


def test_atexit_functions_that_submit(run: Runner) -> None:
    """Those that come before the library's own hook, and those that come after it."""
    hooks = """
        @batched(linger=1000)
        def used(items):
            note("done", "used", items)

        @batched(linger=1000)
        def new(items):
            note("done", "new", items)

        def last():
            for f, who in ((used, "used"), (new, "new")):
                try_call(who, f, "last")

        atexit.register(last)
        call("used", used, 0)
        atexit.register(call, "used", used, "first")
        leaving()
    """
    end = run(dedent(hooks))
    end.expect_quiet()
    end.expect_processed(3 if NO_LATE_THREADS else 4)


def test_the_first_use_is_in_an_atexit_function(run: Runner) -> None:
    hook = """
        @batched(linger=1000)
        def f(items):
            note("done", "f", items)

        @atexit.register
        def last():
            try_call("f", f, 1)

        leaving()
    """
    end = run(dedent(hook))
    end.expect_quiet()
    end.expect_processed(0 if NO_LATE_THREADS else 1)
    assert bool(end.lines("refused")) is NO_LATE_THREADS
