"""Interrupts at opcodes of the engine; see `interrupts.py`."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Collection
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from batchify import Deadlock, batched
from batchify.engine.base import Closer
from batchify.engine.seam import ThreadBell

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="needs signals of POSIX"),
    pytest.mark.skipif(
        sys.gettrace() is not None or sys.implementation.name != "cpython",
        reason="the trace function is taken",
    ),
]

from tests import interrupts  # noqa: E402
from tests.chaos.process import MAY_FORK, NO_FORK  # noqa: E402
from tests.limits import LIMIT  # noqa: E402
from tests.manual import in_thread, until  # noqa: E402
from tests.opcode_watch import SEES_ALL  # noqa: E402

ROOT = Path(__file__).parent.parent
SAMPLE = {  # an opcode in so many, on every interpreter
    "cancel": 41,
    "submit_blocked_too_long": 211,
    "close_cancel": 211,
    "start": 61,
}


# Those of event loops are run by hand: see `python -m tests.interrupts`.
DEF = [name for name in interrupts.SCENARIOS if not name.endswith(("_def", "_async"))]


def hold(name: str, mode: str, first: int, step: int, only: Collection[str] = ()) -> int:
    with interrupts.quiet():
        count, failures = interrupts.run(name, mode, first, step, only)
    assert not failures, "\n".join(map(str, failures))
    return count


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_interrupts(name: str) -> None:
    assert hold(name, "raise", 7, SAMPLE[name]) > 2 or not SEES_ALL


def test_a_handler_that_raises_at_the_jump_of_a_loop_is_in_its_try() -> None:
    """From CPython 3.12 on it may not be."""
    assert hold("close_too_late", "raise", 0, 1, {"run_callbacks", "_run_all"}) > 20 or not SEES_ALL


@pytest.mark.deep
@pytest.mark.parametrize("mode", ["raise", "submit", "both", "meddle"])
def test_interrupts_in_every_scenario(mode: str) -> None:
    assert sum(hold(name, mode, 11, 607) for name in DEF) > 40


@pytest.mark.parametrize("name", ["submit_busy", "close"])
def test_a_killed_worker_continues(name: str) -> None:
    """By an asynchronous exception, at an opcode of the engine's own."""
    assert hold(name, "kill", 7, 151) > 2 or not SEES_ALL


@pytest.mark.deep
def test_workers_that_are_killed_in_every_scenario() -> None:
    assert sum(hold(name, "kill", 11, 907) for name in DEF) > 30 or not SEES_ALL


def test_a_worker_continues_although_that_cannot_be_logged() -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise LookupError

    f = batched(lambda items: items, name="unlogged")
    assert f(1).result(LIMIT) == 1
    (worker,) = [one for one in threading.enumerate() if one.name == "batchify:unlogged:1"]
    log = logging.getLogger("batchify")
    log.addFilter(refuse)
    try:
        set_exception = ctypes.pythonapi.PyThreadState_SetAsyncExc
        set_exception(ctypes.c_ulong(worker.ident or 0), ctypes.py_object(MemoryError))
        assert f(2).result(LIMIT) == 2
        assert f(3).result(LIMIT) == 3
    finally:
        log.removeFilter(refuse)
    f.close()
    assert not worker.is_alive()


@pytest.mark.skipif(find_spec("_testcapi") is None, reason="this CPython cannot fail on demand")
def test_one_failed_allocation_ends_no_worker() -> None:
    """Run in a separate process, because it may hit any of its threads."""
    command = [sys.executable, "-m", "tests.no_memory"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]


@pytest.mark.deep
def test_a_storm_of_sigints() -> None:
    """Send real signals in a separate process, where errors of handlers in finalizers are noise."""
    command = [sys.executable, "-m", "tests.storm", "--interrupts", "4000", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]


@pytest.mark.skipif(not MAY_FORK, reason=NO_FORK)
@pytest.mark.parametrize("name", ["cancel", "submit_keyed"])
def test_the_child_of_a_fork_in_the_middle_of_a_change(name: str) -> None:
    """As that of another thread, which could not wait for the lock any longer."""
    assert hold(name, "fork", 7, 41) > 2 or not SEES_ALL


@pytest.mark.deep
@pytest.mark.skipif(not MAY_FORK, reason=NO_FORK)
def test_forks_in_every_scenario() -> None:
    assert sum(hold(name, "fork", 11, 607) for name in interrupts.SCENARIOS) > 60


def test_a_leaked_lock_is_let_go() -> None:
    """CPython 3.14 before the fix of gh-148874 may leave `with lock:` without a release."""
    f = batched(lambda items: items)
    assert f(1).result(LIMIT) == 1
    engine: Any = f._scope()
    assert threading.current_thread() is threading.main_thread()
    engine._lock.acquire()
    assert f(2).result(LIMIT) == 2
    engine._lock.acquire()
    f.close(LIMIT)


def test_a_handler_that_waits_in_the_middle_of_a_call_gets_a_deadlock() -> None:
    found: list[Any] = []
    f = batched(lambda items: items, size=1)
    f(0).result(LIMIT)

    class Seam:
        def __getattr__(self, name: str) -> Any:
            return getattr(seam, name)

        def clock(self) -> float:  # called under the lock
            if threading.current_thread() is threading.main_thread() and engine._lock._is_owned():
                engine.seam = seam
                found.append(interrupts.error_of(lambda: f("inner").result(LIMIT)))
                found.append(interrupts.error_of(lambda: f.flush(LIMIT)))
                found.append(interrupts.error_of(lambda: f.close(LIMIT)))
            return seam.clock()

    engine: Any = f._scope()
    until(lambda: engine._idle)  # else the worker dispatches
    seam = engine.seam
    engine.seam = Seam()
    future = f("outer")
    assert future.result(LIMIT) == "outer"
    assert found
    assert {type(error) for error in found} == {Deadlock}
    f.close(LIMIT)


def broken_into(engine: Any, act: Any) -> None:
    """Call `act()` during this thread's changes, as a handler would."""
    set_need = engine._set_need

    def acting() -> None:  # called under the lock
        if threading.current_thread() is threading.main_thread():
            act()
        set_need()

    engine._set_need = acting


@pytest.mark.parametrize("options", [{}, {"key": str}, {"capacity": 3}], ids=str)
def test_a_cancel_in_the_middle_of_another_change_counts(options: Any) -> None:
    gate = threading.Event()
    ran: list[Any] = []

    def run(items: list[Any]) -> list[Any]:
        gate.wait(LIMIT)
        ran.extend(items)
        return items

    f = batched(run, size=1, **options)
    first = f("first")
    interrupts.until(first.running, "it does not start")
    second, third = f("second"), f("third")
    found: list[Any] = []
    engine: Any = f._scope()
    broken_into(engine, lambda: found.append(second.cancel()))
    assert third.cancel()
    del engine._set_need
    assert set(found) == {True}
    assert second.cancelled()
    assert f.stats().pending == 0
    gate.set()
    assert first.result(LIMIT) == "first"
    assert f("fourth").result(LIMIT) == "fourth"
    assert ran == ["first", "fourth"]
    stats = f.stats()
    assert (stats.accepted, stats.succeeded, stats.cancelled) == (4, 2, 2)
    f.close(LIMIT)


def test_a_start_in_the_middle_of_the_end_of_a_close_counts() -> None:
    f = batched(lambda items: items)
    assert f(1).result(LIMIT) == 1
    engine: Any = f._scope()
    engine.close(False, Closer())
    found = []

    def start() -> None:
        if not found:
            found.append(engine.state)
            f.start()

    broken_into(engine, start)
    engine.closed()
    del engine._set_need
    assert found == ["closing"]
    assert f(2).result(LIMIT) == 2
    f.close(LIMIT)


def interrupt_asleep(call: Callable[[], object]) -> None:
    """Call `call()`, and raise in it, from a signal handler, as soon as it sleeps."""
    is_over = threading.Event()

    def interrupt(_: int, frame: Any) -> None:
        if frame.f_code is ThreadBell.wait.__code__:
            raise interrupts.Interrupt

    def send() -> None:
        while not is_over.wait(0.001):
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    sending = in_thread(send)
    try:
        with pytest.raises(interrupts.Interrupt):
            call()
    finally:
        is_over.set()
        sending.result()
        signal.signal(signal.SIGUSR1, before)


def test_start_opens_after_a_close_that_was_interrupted() -> None:
    gate = threading.Event()

    def run(items: list[Any]) -> list[Any]:
        gate.wait(LIMIT)
        return items

    f = batched(run)
    first = f("first")
    interrupts.until(first.running, "it does not start")
    engine: Any = f._scope()
    closing = in_thread(lambda: f.close(LIMIT))
    interrupts.until(lambda: engine.state == "closing", "it does not close")
    f.start()  # while the close waits, that is its own
    assert engine.state == "closing"

    interrupt_asleep(lambda: f.close(LIMIT))
    f.start()
    assert engine.state == "closing"  # the other one waits yet
    gate.set()
    closing.result(LIMIT)
    f.start()
    assert f("second").result(LIMIT) == "second"

    gate.clear()
    third = f("third")
    interrupts.until(third.running, "it does not start")
    interrupt_asleep(lambda: f.close(LIMIT))
    f.start()
    fourth = f("fourth")
    gate.set()
    assert (third.result(LIMIT), fourth.result(LIMIT)) == ("third", "fourth")
    f.close(LIMIT)


def test_a_recount_that_is_interrupted_loses_nothing() -> None:
    gate = threading.Event()

    def run(items: list[Any]) -> list[Any]:
        gate.wait(LIMIT)
        return items

    f = batched(run, size=1, key=str)
    futures = [f(item) for item in ("first", "second", "second", "third")]
    interrupts.until(futures[0].running, "it does not start")
    engine: Any = f._scope()
    for at in range(400):
        steps = 0

        def trace(frame: Any, event: str, _: Any, at: int = at) -> Any:
            nonlocal steps
            frame.f_trace_opcodes = True
            if event == "opcode":
                steps += 1
                if steps > at:
                    raise interrupts.Interrupt
            return trace

        with engine._lock:
            engine._is_changing = True
            sys.settrace(trace)
            try:
                engine.forming.recount(1)
            except interrupts.Interrupt:
                pass
            finally:
                sys.settrace(None)
        assert f.stats().pending == 3, at
        if steps <= at:
            break
    gate.set()
    assert [future.result(LIMIT) for future in futures] == ["first", "second", "second", "third"]
    f.close(LIMIT)
