"""Items at exit where no thread starts, or submitters never stop: contract 6 and 8."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from tests.reliability.exit_scripts import NO_LATE_THREADS, Runner


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


def test_no_thread_is_to_be_had_at_the_end(run: Runner) -> None:
    """A lingering item has a worker from the first call on, even after a restart."""
    none = """
        @batched(linger=None)
        def waits(items):
            note("done", "waits", items)

        @batched(linger=None)
        def opened(items):
            note("done", "opened", items)

        @batched(linger=1000)
        def lingers(items):
            note("done", "lingers", items)

        def start(thread):
            raise RuntimeError("can't start new thread")

        opened(0), opened.close(), opened.start()
        for who, f in (("waits", waits), ("opened", opened), ("lingers", lingers)):
            [call(who, f, n + 1) for n in range(3)]
        note("accepted", "opened", [0])
        threading.Thread.start = start
        leaving()
    """
    end = run(dedent(none))
    end.expect_quiet()
    end.expect_processed(10)


def test_the_background_loop_is_just_starting_at_the_end(run: Runner) -> None:
    late = """
        from batchify.engine import background

        @batched
        async def f(items):
            note("done", "f", items)

        def run_late(real=background._run_forever):
            threading.Event().wait(0.05)
            real()

        background._run_forever = run_late
        call("f", f, 1)
        leaving()
    """
    end = run(dedent(late))
    end.expect_quiet()
    end.expect_processed(1)


def test_a_function_without_a_thread_does_not_harm_the_others(run: Runner) -> None:
    none = """
        @batched(linger=1000)
        def good(items):
            note("done", "good", items)

        class Broken:
            "An engine that can start nothing."
            counts, options = good._scope().counts, good._options()
            def hurry(self):
                raise RuntimeError("can't start new thread")
            def closed(self):
                return 0

        from batchify.engine import lifecycle
        call("good", good, 1)
        broken = [Broken() for _ in range(5)]
        lifecycle._engines.update((id(one), one) for one in broken)
        leaving()
    """
    end = run(dedent(none))
    end.expect_quiet()
    end.expect_processed(1)


def test_a_daemon_that_submits_forever_does_not_hold_the_process(run: Runner) -> None:
    daemon = """
        @batched(exit_timeout=1.0, size=1)
        def f(items):
            note("done", "f", items)

        def submit():
            while True:
                try:
                    f(0)
                except RuntimeError:
                    return

        threading.Thread(target=submit, daemon=True).start()
        until(lambda: f.stats().batches > 3)
        leaving()
    """
    end = run(dedent(daemon))
    assert end.code == 0
    assert "Traceback" not in end.stderr


def test_two_functions_that_feed_each_other_forever_do_not_hold_the_process(run: Runner) -> None:
    ring = """
        def bounce(items, other):
            for item in items:
                try:
                    other(item)
                except RuntimeError:
                    pass

        @batched(exit_timeout=0.5)
        def ping(items):
            bounce(items, pong)

        @batched(exit_timeout=0.5)
        def pong(items):
            bounce(items, ping)

        ping(1)
        leaving()
    """
    end = run(dedent(ring))
    assert end.code == 0
    assert "Traceback" not in end.stderr
    assert len(end.warnings) >= 1


@pytest.mark.skipif(NO_LATE_THREADS, reason="no second worker starts, as the test needs")
def test_an_item_that_moves_on_while_it_is_looked_for_is_found(run: Runner) -> None:
    """Whichever function is looked at, the item is with the other: for three rounds of looks."""
    hunt = """
        from batchify.engine import lifecycle

        gate, arrived = threading.Semaphore(0), threading.Semaphore(0)
        is_passed_on = True
        look, looks = lifecycle._hurry, 0

        def hold(me, other):
            global holder
            holder = me
            arrived.release()
            gate.acquire()
            if is_passed_on:
                other(1)
            else:
                note("done", "item", [1])

        @batched(size=1)
        def ping(items):
            hold(ping, pong)

        @batched(size=1)
        def pong(items):
            hold(pong, ping)

        def pass_on():
            before = holder._scope()
            gate.release()
            assert arrived.acquire()
            until(lambda: not before.left())

        def looked(engine):
            global looks, is_passed_on
            looks += 1
            if looks > 6:
                is_passed_on = False
                gate.release()
                return look(engine)
            is_first = looks % 2 == 1
            if is_first and holder._scope() is engine:
                pass_on()
            found = look(engine)
            if is_first:
                pass_on()
            return found

        pong._scope()
        ping(1)
        note("accepted", "item", [1])
        assert arrived.acquire()
        lifecycle._hurry = looked
        leaving()
    """
    end = run(dedent(hunt))
    end.expect_quiet()
    end.expect_processed(1)
