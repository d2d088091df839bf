"""The exit of a process: contract 6 and 8.

Each test runs a script to its end. The script records which items were accepted and which ones its
batches processed, and the two must agree. It also records when it begins to exit.

No test measures how long an exit takes: anything that an exit must not wait for, such as a linger,
takes longer than the script may run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from textwrap import dedent

import pytest

from tests import exit_matrix
from tests.limits import LIMIT

ROOT = Path(__file__).parent.parent
EXIT_TIMEOUT = 0.5  # of functions that hang
# gh-113964: 3.12.0 to 3.12.2 start no thread at all after main has ended.
NO_LATE_THREADS = (3, 12, 0) <= sys.version_info < (3, 12, 3)

# ---- the start of all scripts ----

NOTES = '''
import asyncio, atexit, functools, multiprocessing, os, signal, sys, threading, time
import batchify

batched = functools.partial(batchify.batched, exit_timeout=1000)
# A process that a shell started in the background ignores it, and so do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)

def note(file, who, items):
    """One write, so that threads and processes do not mix their lines."""
    with open(file, "a") as out:
        out.write("".join(f"{who} {item}\\n" for item in items))

def call(who, f, item):
    future = f(item)
    note("accepted", who, [item])
    return future

def try_call(who, f, item):
    "A call that may come too late for a thread to start."
    try:
        call(who, f, item)
    except RuntimeError:
        note("refused", who, [item])

def leaving():
    note("left", time.monotonic(), [""])

def until(fact):
    end = time.monotonic() + 240
    while not fact():
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.001)

kept = []  # what a module would hold
'''


# Every kind of function, in every state at the time of exit.
MATRIX = """
KINDS = ("def", "async", "method", "chain", "nested")
STATES = {
    "idle": {},
    "lingers": {"linger": 1000},
    "runs": {"size": 1},  # one batch runs, one item waits for its end
    "full": {"size": 2, "capacity": 4, "linger": 1000},  # and one caller waits for capacity
}

def make(kind, state):
    "A function, and an event that its first batch sets."
    who, options, begun = f"{kind}-{state}", STATES[state], threading.Event()
    pause = 0.2 if state in ("runs", "full") else 0

    def work(items):
        begun.set()
        time.sleep(pause)
        note("done", who, items)

    if kind == "def":
        f = batched(work, **options)
    elif kind == "async":
        @batched(**options)
        async def f(items):
            begun.set()
            await asyncio.sleep(pause)
            note("done", who, items)
    elif kind == "method":
        class Owner:
            @batched(**options)
            def f(self, items):
                work(items)
        f = Owner().f
    else:
        @batched(**options)
        def tail(items):
            note("done", who + "-tail", items)

        @batched(**options)
        def f(items):
            work(items)
            futures = [call(who + "-tail", tail, item) for item in items]
            if kind == "nested":
                [future.result() for future in futures]
    return f, begun

def fill(kinds=KINDS):
    "Bring each kind of function into each state."
    for kind in kinds:
        for state in STATES:
            who = f"{kind}-{state}"
            f, begun = make(kind, state)
            kept.append(f)
            if state == "idle":
                call(who, f, 0).result()
            elif state == "lingers":
                [call(who, f, n) for n in range(3)]
            elif state == "runs":
                [call(who, f, n) for n in range(2)]
                assert begun.wait()
            else:
                [call(who, f, n) for n in range(4)]
                assert begun.wait()
                threading.Thread(target=call, args=(who, f, 4)).start()
                until(lambda: f.stats().submitted == 5)
    leaving()
"""

# The least that the batches of MATRIX processed, where a thread may start late, and where not:
# 11 items of each of five kinds, and those that the last two sent on. (One caller that waits for
# capacity may be refused.)
LEAST = 5 * 10 + 2 * 10


class End:
    """What a script did, and how it ended."""

    def __init__(self, code: int, stderr: str, where: Path, ended: float) -> None:
        self.code = code
        self.stderr = stderr
        self.where = where
        self.ended = ended

    def lines(self, file: str) -> list[str]:
        path = self.where / file
        return path.read_text().splitlines() if path.exists() else []

    @property
    def seconds(self) -> float:
        """Return the seconds from the script's last line to the end of the process."""
        return self.ended - float(self.lines("left")[-1])

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.stderr.splitlines() if "Warning: " in line]

    def expect_quiet(self, code: int = 0, error: str = "") -> None:
        """Check that the script ended with this code, and printed only this error of its own."""
        if error:
            assert self.stderr.count("Traceback") == 1, self.stderr
            assert self.stderr.splitlines()[-1].startswith(error), self.stderr
            for noise in ("Exception ignored", "never retrieved", "Warning"):
                assert noise not in self.stderr
        else:
            assert self.stderr == ""
        assert self.code == code

    def expect_processed(self, at_least: int) -> None:
        """Everything accepted was processed once."""
        accepted, done = Counter(self.lines("accepted")), Counter(self.lines("done"))
        assert not accepted - done, "lost"
        assert not done - accepted, "more than once"
        assert accepted.total() >= at_least


class Runner:
    """Runs a script in a new directory."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def __call__(self, *parts: str, arguments: Sequence[str] = ()) -> End:
        (self.where / "app.py").write_text(NOTES + "\n".join(parts))
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        # 3.12 warns of forks with threads, which some scripts test.
        command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "app.py"]
        ended = subprocess.run(
            [*command, *arguments],
            cwd=self.where,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        return End(ended.returncode, ended.stderr, self.where, time.monotonic())


@pytest.fixture
def run(tmp_path: Path) -> Runner:
    return Runner(tmp_path)


# ---- the ways to exit ----

PATHS = """
def end_of_a_process(start_method):
    context = multiprocessing.get_context(start_method)
    child = context.Process(target=fill)
    child.start()
    child.join()
    assert child.exitcode == 0, child.exitcode

if __name__ == "__main__":
    path = sys.argv[1]
    if path == "return":
        fill()
    elif path == "sys.exit":
        fill()
        sys.exit(3)
    elif path == "error":
        fill()
        raise ValueError("this is how it ends")
    elif path == "SIGINT":
        fill()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1000)
    elif path == "SIGTERM":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(4))
        fill()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1000)
    elif path == "os.fork":
        f, _ = make("def", "idle")
        g, _ = make("async", "idle")
        call("def-idle", f, -1).result(), call("async-idle", g, -1).result()
        child = os.fork()
        if not child:
            fill()
            sys.exit(5)
        status = os.waitpid(child, 0)[1]
        assert os.waitstatus_to_exitcode(status) == 5, status
    else:
        end_of_a_process(path)
"""


every_path = pytest.mark.parametrize("path", [*exit_matrix.SERVED, *exit_matrix.UNSERVED])


def expect_no_faults(cells: list[exit_matrix.Cell]) -> None:
    assert [fault for end in exit_matrix.run_all(cells) for fault in end.faults()] == []


@every_path
def test_some_of_the_matrix(path: str) -> None:
    expect_no_faults([cell for cell in exit_matrix.SOME if cell.path == path])


@pytest.mark.deep
@every_path
@pytest.mark.parametrize("kind", exit_matrix.KINDS)
def test_the_whole_matrix(path: str, kind: str) -> None:
    cells = [cell for cell in exit_matrix.ALL if (cell.path, cell.kind) == (path, kind)]
    expect_no_faults(cells)


@pytest.mark.parametrize("path", ["return", "error", "os.fork", "fork"])
def test_all_functions_in_all_states_at_once(run: Runner, path: str) -> None:
    end = run(MATRIX, PATHS, arguments=[path])
    is_error = path == "error"
    end.expect_quiet(int(is_error), "ValueError: this is how it ends" if is_error else "")
    end.expect_processed(LEAST)


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


# ---- event loops ----


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


# ---- batches that hang ----

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
