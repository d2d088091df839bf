"""Mutants: copies of the engine with one fault each, which the tests must detect.

    python -m tests.mutants                    all; exit code 1 if one survives
    python -m tests.mutants NAME ...           some
    python -m tests.mutants --jobs 2 --limit 240

A mutant replaces one piece of source, which must occur exactly once, in a copy of the package. Its
schedules and pytest files run in order until one fails or hangs past the limit: both kill it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "batchify"


class Mutant(NamedTuple):
    """One fault, and the commands that must detect it, in order: arguments of `python -m`."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[tuple[str, ...], ...]


class Verdict(NamedTuple):
    """The result for one mutant; `killer` is None if it survived."""

    mutant: Mutant
    killer: str | None
    seconds: float


Tests = tuple[tuple[str, ...], ...]
BOUND = ("--seconds", "120")  # so that only a hang reaches the limit
SCHEDULES = {"seam": "400", "line": "1500", "opcode": "1500"}


def on_schedule(*names: str, levels: tuple[str, ...] = ("seam", "line", "opcode")) -> Tests:
    """Return schedules of these scenarios, the coarse levels first."""
    scenarios = [word for name in names for word in ("--scenario", name)]
    return tuple(
        ("tests.schedules", "--level", level, "--schedules", SCHEDULES[level], *BOUND, *scenarios)
        for level in levels
    )


def finely(*names: str) -> Tests:
    """Return fine schedules, for faults that need a switch between two lines or opcodes."""
    return on_schedule(*names, levels=("line", "opcode"))


def in_file(name: str, *tests: str) -> Tests:
    """Name some tests of a file, of either tier, or all of its default tier."""
    folder, _, module = name.rpartition("/")
    path = f"tests/{folder + '/' if folder else ''}test_{module}.py"
    tier = ("-m", "" if tests else "not deep")
    return (("pytest", *PYTEST, *tier, *([f"{path}::{test}" for test in tests] or [path])),)


PYTEST = ("-n", "0", "-x", "-q", "-p", "no:cacheprovider", "--tb=no", "--timeout=40")

MUTANTS: list[Mutant] = []


def mutant(name: str, file: str, old: str, new: str, *tests: tuple[str, ...]) -> None:
    MUTANTS.append(Mutant(name, file, old, new, tests))


# ---- future, waits, scopes, loopfuture ----

mutant(
    "watch-does-not-look-again", "future.py",
    "        if self._s.__class__ is Done:  # the end may have missed us\n"
    "            if poke.__class__ is tuple:"
    "  # at once: who waits in a callback would wait for its turn\n"
    "                poke[0](self)\n"
    "            fire(pokes, self, engine)\n"
    "            watched.pop(self, None)\n"
    "        return True",
    "        return True",
    *finely("result-against-settle", "callbacks-against-settle", "entry"),
)  # fmt: skip
mutant(
    "watch-looks-before-it-registers", "future.py",
    "        pokes.append(poke)\n"
    "        if not engine.has_gil:\n"
    "            engine.pass_lock()\n"
    "        if self._s.__class__ is Done:  # the end may have missed us\n",
    "        is_done = self._s.__class__ is Done\n"
    "        pokes.append(poke)\n"
    "        if is_done:\n",
    *finely("callbacks-against-settle", "result-against-settle", "entry"),
)  # fmt: skip
mutant(
    "callbacks-catch-exception-only", "future.py",
    "    except BaseException as error:  # also SystemExit: the neighbours must hear too",
    "    except Exception as error:",
    *in_file("api/futures", "test_callbacks_that_raise_anything_are_logged_by_type"),
)  # fmt: skip
mutant(
    "callbacks-recurse", "future.py",
    "    while queue and not callbacks.is_busy:",
    "    while queue:",
    *in_file("api/futures", "test_chains_of_callbacks_do_not_recurse"),
)  # fmt: skip
mutant(
    "a-wait-that-is-over-leaves-its-bell", "future.py",
    "                self._unwatch(engine, poke)",
    "                pass",
    *in_file("reliability/lifetime_threads", "test_waits_that_time_out_leave_nothing_behind"),
)  # fmt: skip
mutant(
    "the-second-check-of-a-ring-is-left-out", "waits.py",
    "        check(target)  # again: another may have begun to wait for this one meanwhile\n",
    "",
    *finely("rings"),
)  # fmt: skip
mutant(
    "waits-that-were-never-at-once-are-a-ring", "waits.py",
    "    while found is not None and found != before:",
    "    while False:",
    *in_file("reliability/thread_engine", "test_waits_that_were_never_at_once_are_no_deadlock"),
)  # fmt: skip
mutant(
    "who-has-got-room-waits-for-it-still", "forming/states.py",
    "        return state.holders(me) if state.__class__ is Waiting else None",
    "        return state.holders(me)",
    *in_file(
        "reliability/thread_engine",
        "test_a_caller_with_capacity_that_is_not_awake_yet_is_no_deadlock"
    ),
)  # fmt: skip
mutant(
    "a-wait-stays-noted", "waits.py",
    "        _waits_for.pop(me, None)",
    "        pass",
    *on_schedule("rings"),
)  # fmt: skip
mutant(
    "two-first-calls-make-two-engines", "scopes.py",
    "        with self._lock:\n            if self._own is None:",
    "        if True:\n            if self._own is None or True:",
    *on_schedule("first-call"),
)  # fmt: skip
mutant(
    "an-option-misses-the-engine-just-made", "scopes.py",
    "        for scope in self._existing():\n"
    "            scope.options.changed(option, value)  # check them all first\n"
    "        self.live.change(option, value)\n"
    "        for scope in self._existing():  #",
    "        known = self._existing()\n"
    "        for scope in known:\n"
    "            scope.options.changed(option, value)  # check them all first\n"
    "        self.live.change(option, value)\n"
    "        for scope in known:  #",
    *on_schedule("configure-against-all"),
)  # fmt: skip
mutant(
    "a-port-forgets-its-call-after-the-look", "loopfuture.py",
    "        self._is_called = False  # before the look: who posts now calls again\n"
    "        try:\n"
    "            self._wake_all()  # not here: see `run_callbacks`\n",
    "        try:\n"
    "            self._wake_all()\n"
    "            self._is_called = False\n",
    *finely("ports"),
)  # fmt: skip

# ---- submitting ----

mutant(
    "need-off-by-one", "engine/entry.py",
    "            if len(intake) >= self.need:\n                return self.crowded(future, route)",
    "            if len(intake) > self.need:\n                return self.crowded(future, route)",
    *on_schedule("first-call"),
)  # fmt: skip
mutant(
    "the-look-comes-before-the-append", "engine/entry.py",
    "            append(future)\n            if len(intake) >= self.need:",
    "            is_crowded = len(intake) + 1 >= self.need\n"
    "            append(future)\n"
    "            if is_crowded:",
    *in_file(
        "reliability/thread_engine",
        "test_a_caller_that_looks_while_the_worker_falls_asleep_is_seen"
    ),
)  # fmt: skip
mutant(
    "a-crowded-caller-does-not-look", "engine/entry.py",
    "                if not is_last or self._no_worker is not None:\n"
    "                    self._look()\n",
    "",
    *on_schedule("first-call"),
)  # fmt: skip
mutant(
    "who-finds-no-room-first-does-not-look", "engine/entry.py",
    "                is_last = self.forming.is_pressed and self._is_configured\n",
    "                is_last = True\n",
    *on_schedule("first-call"),
)  # fmt: skip
mutant(
    "a-crowded-caller-takes-no-lock", "engine/entry.py",
    "        try:  # as `mended`, without the frame that it costs\n"
    "            with self._lock:",
    "        try:\n"
    "            if True:",
    *on_schedule("entry", "first-call", "room-against-release"),
)  # fmt: skip
mutant(
    "who-waited-for-room-takes-no-lock", "engine/entry.py",
    "        finally:\n            with self._lock:\n                self._begin()\n"
    "                was_waiting",
    "        finally:\n            with contextlib.nullcontext():\n                self._begin()\n"
    "                was_waiting",
    *on_schedule("room-against-release"),
)  # fmt: skip
mutant(
    "who-gave-up-waiting-stays-in-the-queue", "engine/entry.py",
    "self._waits(future) and self.forming.withdraw(future)\n                if was_waiting",
    "self._waits(future)\n                if was_waiting",
    *on_schedule("room-against-release"),
)  # fmt: skip
mutant(
    "who-got-room-is-not-told", "engine/looking.py",
    "                told[0]()\n",
    "                pass\n",
    *on_schedule("room-against-release"),
)  # fmt: skip
mutant(
    "nobody-looks-again", "engine/looking.py",
    "        return held < self.need or held == self.forming.seen or self.need == 0",
    "        return True",
    *finely("entry", "first-call"),
)  # fmt: skip
mutant(
    "need-is-not-lowered-while-a-batch-is-taken", "engine/running.py",
    "        if forming.capacity is not None:\n            self.need = 0\n",
    "",
    *finely("room-against-release", "entry"),
)  # fmt: skip
mutant(
    "need-is-not-lowered-while-items-are-sorted", "engine/entry.py",
    "            self.need = 0  # what is moved on leaves the intake, and keeps its room\n",
    "",
    *finely("deadline-against-start"),
)  # fmt: skip
mutant(
    "need-is-not-lowered-for-whole-batches", "engine/running.py",
    "            self.need = 0  # the room shrinks\n",
    "",
    *on_schedule("map-against-room"),
)  # fmt: skip
mutant(
    "an-interrupted-change-is-not-mended", "engine/mending.py",
    "            self._recount()\n"
    "        self._is_changing = True",
    "            pass\n"
    "        self._is_changing = True",
    *in_file("reentry", "test_a_change_that_is_broken_off_is_mended"),
)  # fmt: skip
mutant(
    "who-came-meanwhile-is-forgotten", "engine/entry.py",
    "                self._end()\n"
    "            if self._nested:\n"
    "                self._look_again()\n"
    "            if bell is not None:",
    "                self._end()\n"
    "            if bell is not None:",
    *in_file("reentry", "test_the_deadline_of_a_call_from_within_a_call_counts"),
)  # fmt: skip
mutant(
    "an-open-engine-refuses-as-if-closed", "engine/entry.py",
    "        if future._s is CANCELLED:\n            raise self._closed()",
    "        if future._s is CANCELLED:\n            raise self._full()",
    *in_file("threads/capacity", "test_a_blocked_caller_is_woken_by_close"),
)  # fmt: skip

# ---- taking and settling ----

mutant(
    "settles-what-is-not-its-own", "engine/running.py",
    "                if future._s is batch:\n                    future._v = value",
    "                if True:\n                    future._v = value",
    *on_schedule("close-with-timeout"),
)  # fmt: skip
mutant(
    "the-state-is-stored-before-the-value", "engine/running.py",
    "                    future._v = value\n                    future._s = RESULT\n"
    "                    succeeded += 1",
    "                    future._s = RESULT\n                    future._v = value\n"
    "                    succeeded += 1",
    *finely("result-against-settle", "callbacks-against-settle", "entry"),
)  # fmt: skip
mutant(
    "callbacks-before-settling", "engine/running.py",
    "        succeeded = 0\n        with self._lock:",
    "        succeeded = 0\n        self._announce(futures)\n        with self._lock:",
    *on_schedule("entry", "callbacks-against-settle"),
)  # fmt: skip
mutant(
    "each-item-is-told-when-it-is-settled", "engine/running.py",
    "                    future._s = RESULT\n                    succeeded += 1\n",
    "                    future._s = RESULT\n                    succeeded += 1\n"
    "                    self._announce((future,))\n",
    *on_schedule("callbacks-against-settle"),
)  # fmt: skip
mutant(
    "room-is-not-given-back", "engine/running.py",
    "        self.forming.running -= succeeded + failed",
    "        self.forming.running -= succeeded",
    *on_schedule("poison-and-retry"),
)  # fmt: skip
mutant(
    "a-kind-is-not-released", "engine/running.py",
    "                counts.record()\n            self.forming.release(batch.route)",
    "                counts.record()",
    *on_schedule("kinds"),
)  # fmt: skip
mutant(
    "cancels-what-runs", "engine/ending.py",
    "state.__class__ is Done or (state.is_running and future.__class__ is not LoopFuture)",
    "state.__class__ is Done",
    *on_schedule("cancel-against-start"),
)  # fmt: skip
mutant(
    "cancel-does-not-look", "engine/ending.py",
    "                self._cancel(future)\n"
    "                self._look()\n",
    "                self._cancel(future)\n",
    *on_schedule("room-by-cancel"),
)  # fmt: skip
mutant(
    "cancel-takes-no-lock", "engine/ending.py",
    "        with self._lock:\n"
    "            self._begin()\n"
    "            is_late",
    "        if True:\n"
    "            self._begin()\n"
    "            is_late",
    *on_schedule("cancel-against-start"),
)  # fmt: skip
mutant(
    "an-expired-item-is-not-counted", "engine/ending.py",
    "            self.counts.expired += 1\n",
    "",
    *on_schedule("deadline-against-start"),
)  # fmt: skip
mutant(
    "an-item-runs-again-without-end", "engine/running.py",
    "        terms.tries += 1\n",
    "",
    *on_schedule("poison-and-retry"),
)  # fmt: skip
mutant(
    "runs-again-after-a-stop", "engine/running.py",
    "        return self._is_stopping or self.state is CLOSED",
    "        return self.state is CLOSED",
    *in_file("api/retry", "test_the_stop_ends_running_items_that_ask_for_a_retry"),
)  # fmt: skip
mutant(
    "announce-skips-the-first", "engine/telling.py",
    "            for future in futures:\n                pokes",
    "            for future in futures[1:] or futures:\n                pokes",
    *on_schedule("entry", "callbacks-against-settle"),
)  # fmt: skip
mutant(
    "a-stop-does-not-count", "engine/base.py",
    "        if future._s is not CANCELLED:  # by a handler\n"
    "            self.counts.failed += count\n",
    "",
    *on_schedule("close-against-submit"),
)  # fmt: skip

# ---- life cycle ----

mutant(
    "close-lets-in-who-has-no-room", "forming/base.py",
    "        if not (self.is_pressed or self.is_sealed):  # who has room is in front\n"
    "            room = self._room()\n",
    "        if not self.is_sealed:\n"
    "            room = None\n",
    *on_schedule("close-against-submit"),
)  # fmt: skip
mutant(
    "close-lowers-need-too-late", "engine/base.py",
    "        self.need = 0  # first: who has not seen it is in the intake, and is let in\n",
    "",
    *finely("close-against-submit"),
)  # fmt: skip
mutant(
    "a-given-up-batch-keeps-its-room", "engine/base.py",
    "            self.forming.running -= future._count\n"
    "            self._drop",
    "            self._drop",
    *on_schedule("close-with-timeout"),
)  # fmt: skip
mutant(
    "fork-keeps-the-lock", "engine/base.py",
    "        self._lock = RLock()  # another thread may have held the old one\n",
    "",
    *in_file("reliability/fork_races", "test_fork_while_another_thread_holds_the_lock"),
)  # fmt: skip
mutant(
    "fork-keeps-what-runs", "engine/base.py",
    "        futures += self.forming.everyone()\n",
    "        futures = self.forming.everyone()\n",
    *in_file("reliability/fork_states", "test_fork_in_the_middle_of_a_batch"),
)  # fmt: skip
mutant(
    "fork-knows-whole-batches-only", "engine/base.py",
    "        futures = [future for batch in self._begun() for future in batch.futures]\n",
    "        futures = self._running()\n",
    *in_file("interrupts", "test_the_child_of_a_fork_in_the_middle_of_a_change"),
)  # fmt: skip
mutant(
    "fork-keeps-the-workers", "engine/threads.py",
    "        self._threads.clear()\n        self._hired.clear()\n",
    "        self._hired.clear()\n",
    *in_file("reliability/fork_states", "test_fork_while_idle"),
)  # fmt: skip
mutant(
    "flush-forces-before-it-looks", "engine/base.py",
    "            self._look()  # else what came in just before might not be forced\n",
    "",
    *finely("flush-against-submit"),
)  # fmt: skip
mutant(
    "start-does-not-unseal", "engine/base.py",
    "                self.forming.unseal()\n                self._roused = False\n",
    "                self._roused = False\n",
    *on_schedule("close-against-close-and-start"),
)  # fmt: skip
mutant(
    "a-flush-ends-one-early", "engine/base.py",
    "        self._watch(futures)\n        self._tick(None)\n",
    "        self._watch(futures[1:])\n        self._tick(None)\n",
    *on_schedule("flush-against-submit", "close-against-submit"),
)  # fmt: skip
mutant(
    "the-exit-does-not-hasten", "engine/base.py",
    '            self._begin()\n            self.forming.hasten("close")\n'
    "            self._look()\n            self._end()\n            self._need_worker()\n",
    "            self._begin()\n            self._look()\n"
    "            self._end()\n            self._need_worker()\n",
    *in_file("reliability/exit_matrix", "test_all_functions_in_all_states_at_once"),
)  # fmt: skip
mutant(
    "a-late-close-gives-nothing-up", "engine/control.py",
    '            _wait(scope, futures, timeout, "close()")\n'
    "        except TimeoutError:\n"
    "            _close(scope, closer, abandon=True)",
    '            _wait(scope, futures, timeout, "close()")\n'
    "        except TimeoutError:\n"
    "            _close(scope, closer, abandon=False)",
    *on_schedule("close-with-timeout"),
)  # fmt: skip
mutant(
    "close-waits-for-one-of-each-batch", "engine/control.py",
    "Countdown(futures, bell.ring)",
    "Countdown(_one_of_each(futures), bell.ring)",
    *on_schedule("flush-against-submit"),
)  # fmt: skip
mutant(
    "exit-of-the-main-thread-only", "engine/lifecycle.py",
    '    elif hasattr(threading, "_shutdown"):',
    "    elif False:",
    *in_file("reliability/exit_pools"),
)  # fmt: skip

# ---- the workers ----

mutant(
    "an-alarm-outlives-its-sleeper", "engine/threads.py",
    "            self._idle.remove(bell)\n            self._alarms.pop(bell, None)",
    "            self._idle.remove(bell)",
    *on_schedule("entry"),
)  # fmt: skip
mutant(
    "a-worker-is-not-rung", "engine/threads.py",
    "            bell.ring()\n            self._roused = True",
    "            self._roused = True",
    *on_schedule("entry"),
)  # fmt: skip
mutant(
    "who-rings-does-not-keep-the-engine", "engine/threads.py",
    "            bell.cargo = self\n            bell.ring()",
    "            bell.ring()",
    *on_schedule("drop-against-submit"),
)  # fmt: skip
mutant(
    "a-new-worker-does-not-keep-the-engine", "engine/threads.py",
    "        bell.cargo = self\n        name = f",
    "        name = f",
    *on_schedule("drop-against-submit"),
)  # fmt: skip
mutant(
    "a-sleeper-keeps-the-engine", "engine/threads.py",
    "            del engine\n            bell.wait(None)",
    "            bell.wait(None)",
    *on_schedule("drop-against-submit"),
)  # fmt: skip
mutant(
    "a-batch-that-is-ended-ends-its-worker", "engine/threads.py",
    "            except BaseException as error:\n                answers.append(to_raised(error))",
    "            except Exception as error:\n                answers.append(to_raised(error))",
    *on_schedule("poison-and-retry"),
)  # fmt: skip
mutant(
    "who-takes-a-batch-wakes-nobody", "engine/threads.py",
    "                waits.begin_to_serve(step)\n                self._look()\n",
    "                waits.begin_to_serve(step)\n",
    *on_schedule("workers-side-by-side"),
)  # fmt: skip
mutant(
    "what-is-put-back-has-its-state-before-its-place", "engine/running.py",
    "            self.forming.chunks.appendleft(live[0])  # first: who is in no place is lost\n"
    "            live[0]._s = chunk\n",
    "            live[0]._s = chunk\n"
    "            self.forming.chunks.appendleft(live[0])\n",
    *in_file("reentry", "test_a_mend_that_is_broken_off_is_mended"),
)  # fmt: skip
mutant(
    "a-fault-ends-its-worker", "engine/mending.py",
    "            pause = _recover(recover, fault, args, pause)",
    "            raise",
    *in_file("interrupts", "test_a_killed_worker_continues"),
)  # fmt: skip
mutant(
    "nobody-finds-the-batch-of-a-killed-worker", "engine/threads.py",
    "            if batch.thread == get_ident():\n                self._let_slip(batch)\n",
    "            if batch.thread == get_ident():\n                pass\n",
    *in_file("interrupts", "test_a_killed_worker_continues"),
)  # fmt: skip
mutant(
    "a-worker-sleeps-without-a-last-look", "engine/threads.py",
    "            self._set_need()\n            if self._has_seen_all():\n"
    "                return step",
    "            self._set_need()\n            return step",
    *finely("entry"),
)  # fmt: skip
mutant(
    "a-thread-too-many", "engine/threads.py",
    "(bool(self._idle) or len(self._threads) < workers)",
    "(bool(self._idle) or len(self._threads) <= workers)",
    *on_schedule("first-call"),
)  # fmt: skip
mutant(
    "who-was-roused-stays-noted", "engine/threads.py",
    "        self._roused = False\n        self._leave_bed(bell)",
    "        self._leave_bed(bell)",
    *on_schedule("entry"),
)  # fmt: skip
mutant(
    "the-deadlines-thread-is-rung-too-early", "engine/threads.py",
    "        watch, self._watch = self._watch, None  # first: it looks without the lock\n"
    "        if watch is not None:\n"
    "            watch.ring()\n",
    "        watch = self._watch\n"
    "        if watch is not None:\n"
    "            watch.ring()\n"
    "            self._watch = None\n",
    *on_schedule("deadline-against-start"),
)  # fmt: skip
mutant(
    "who-leaves-does-not-look", "engine/threads.py",
    "        self._look()\n        return STOP\n",
    "        return STOP\n",
    *on_schedule("start-before-the-worker-is-gone"),
)  # fmt: skip

# ---- loops ----

mutant(
    "a-background-loop-that-is-ending-is-handed-out", "engine/background.py",
    "    return None if home.is_ended() else home\n",
    "    return home\n",
    *on_schedule("background-loop"),
)  # fmt: skip
mutant(
    "a-background-loop-ends-under-a-new-user", "engine/background.py",
    "        if self.users:  # registered meanwhile: it may have looked before the append\n"
    "            self.ended.clear()\n            return\n",
    "",
    *on_schedule("background-loop"),
)  # fmt: skip
mutant(
    "a-cancelled-call-escapes-the-task", "engine/loop.py",
    "except BaseException as error:\n                    if isinstance(error, GeneratorExit)",
    "except Exception as error:\n                    if isinstance(error, GeneratorExit)",
    *in_file("asyncio/awaiting", "test_errors_reach_the_awaiter_and_stopiteration_does_not_hang"),
)  # fmt: skip
mutant(
    "a-batch-runs-in-the-first-callers-context", "engine/loop.py",
    "                context=_CONTEXT.copy(),  # not that of the caller that came first\n",
    "",
    *in_file("asyncio/batches", "test_batches_run_in_an_empty_context"),
)  # fmt: skip
mutant(
    "a-task-that-ends-does-not-look", "engine/loop.py",
    "            if not self.port.loop.is_closed():\n                self._look()\n",
    "",
    *in_file("asyncio/batches", "test_a_batch_that_leaves_a_variable_behind_delays_no_other"),
)  # fmt: skip

# ---- forming ----

mutant(
    "a-full-line-waits-for-one-more", "forming/plain.py",
    "        if live >= self.size:",
    "        if live > self.size:",
    *in_file("forming", "test_items_that_arrive_while_the_worker_is_busy_form_the_next_batch"),
    *in_file("forming"),
)  # fmt: skip
mutant(
    "last-in-first-out", "forming/plain.py",
    "map(deque.popleft, ",
    "map(deque.pop, ",
    *in_file("forming", "test_items_that_arrive_while_the_worker_is_busy_form_the_next_batch"),
)  # fmt: skip
mutant(
    "the-lines-order-is-broken", "forming/plain.py",
    "            entry = entries[0]\n"
    "            if entry is line.forced",
    "            entries.rotate(1)\n"
    "            entry = entries[0]\n"
    "            if entry is line.forced",
    *in_file("forming", "test_hurry_dispatches_everything_in_full_batches"),
)  # fmt: skip
mutant(
    "each-item-starts-the-linger-anew", "forming/plain.py",
    "if self.line.entries else self.intake[0]",
    "if self.line.entries else self.intake[-1]",
    *in_file("forming", "test_linger_counts_from_the_oldest_item"),
)  # fmt: skip
mutant(
    "threshold-off-by-one", "forming/plain.py",
    "max(1, self.size - self.grouped + self.dead)",
    "max(1, self.size - self.grouped + self.dead + 1)",
    *in_file("forming", "test_no_caller_dispatches_between_the_first_item_and_a_full_batch"),
)  # fmt: skip
mutant(
    "room-for-one-too-many", "forming/plain.py",
    "(room is None or held - self.dead <= room)",
    "(room is None or held - self.dead <= room + 1)",
    *on_schedule("room-against-release"),
)  # fmt: skip
mutant(
    "who-waited-stays-counted", "forming/base.py",
    '        if entry._s.__class__ is Waiting:\n            self.waiting -= 1\n'
    "        self._forget_about(entry)",
    "        self._forget_about(entry)",
    *on_schedule("room-against-release"),
)  # fmt: skip
mutant(
    "a-cancelled-wait-stays-counted", "forming/base.py",
    "            self.dead += 1\n            self.waiting -= 1\n            return False",
    "            self.dead += 1\n            return False",
    *in_file("asyncio/capacity", "test_a_call_that_gave_up_waiting_for_capacity_is_counted_once"),
)  # fmt: skip
mutant(
    "seal-lets-nobody-in", "forming/base.py",
    "            room = self._room()\n"
    "            self._move(len(self.intake) if room is None else room)",
    "            pass",
    *on_schedule("close-against-submit"),
)  # fmt: skip
mutant(
    "weights-are-not-added", "forming/grouped.py",
    "        group.weight += terms.weight\n",
    "",
    *in_file("api/weight", "test_a_batch_that_is_heavy_enough_is_dispatched_at_once"),
)  # fmt: skip
mutant(
    "deadlines-are-not-disarmed", "forming/grouped.py",
    "        mark = self.minded.pop(entry, None)\n        if mark is not None:\n"
    "            self._deadlines.discard(mark)\n",
    "        self.minded.pop(entry, None)\n",
    *in_file("reliability/deadlines", "test_met_deadlines_need_no_memory"),
)  # fmt: skip
mutant(
    "priorities-are-upside-down", "forming/grouped.py",
    "            group.top = -self._top(group)[0]",
    "            group.top = self._top(group)[0]",
    *in_file("api/priority", "test_priorities_with_keys"),
)  # fmt: skip
mutant(
    "an-idle-kind-is-never-forgotten", "forming/grouped.py",
    "        if not self.is_used(route):\n            self.gone.append(route)",
    "        if False:\n            self.gone.append(route)",
    *on_schedule("kinds"),
)  # fmt: skip

# ---- outcomes ----

mutant(
    "tracebacks-keep-the-locals", "outcome/tracebacks.py",
    "        copied = TracebackType(copied, frame,",
    "        copied = TracebackType(copied, original,",
    *in_file("core/tracebacks", "test_no_traceback_shows_the_engine_or_holds_items"),
)  # fmt: skip
mutant(
    "callers-share-an-exception", "outcome/exceptions.py",
    "(Failure(copy_of(error) or error, traceback)",
    "(Failure(error, traceback)",
    *on_schedule("poison-and-retry"),
)  # fmt: skip
mutant(
    "equal-items-share-a-failure", "outcome/execution.py",
    "            values += copies(value, len(equal))",
    "            values += [value] * len(equal)",
    *in_file("api/dedupe", "test_errors_of_equal_items_are_own_objects"),
)  # fmt: skip
mutant(
    "the-function-gets-the-batch's-list", "engine/batch.py",
    "make_call(work, self.given.copy())",
    "make_call(work, self.given)",
    *in_file(
        "api/isolate",
        "test_isolate_asks_with_fresh_lists_though_the_function_changes_its_own",
    ),
)  # fmt: skip
mutant(
    "an-idle-queue-keeps-an-old-count", "forming/plain.py",
    "        self.fresh = self.seen = 0\n        self.is_pressed = False\n        return True",
    "        return True",
    *finely("entry", "first-call"),
)  # fmt: skip
mutant(
    "an-idle-queue-forgets-its-line", "forming/plain.py",
    " or self.told or self.line.route is not None:",
    " or self.told:",
    *finely("room-against-release"),
)  # fmt: skip
mutant(
    "the-function-gets-the-engines-list", "outcome/execution.py",
    "make_call(spec, items.copy())",
    "make_call(spec, items)",
    *in_file("core/attempt", "test_a_function_may_change_its_list_at_will"),
)  # fmt: skip
mutant(
    "too-many-results-are-taken", "outcome/values.py",
    "        if found != count:",
    "        if found < count:",
    *in_file("core/values", "test_a_wrong_number_is_a_bad_result_for_all_callers"),
)  # fmt: skip
mutant(
    "a-stream-may-end-early", "outcome/attempt.py",
    "            if has_ended:\n                early",
    "            if has_ended and at:\n                return None\n"
    "            if has_ended:\n                early",
    *in_file("core/generators", "test_a_generator_that_ends_early_is_a_bad_result_for_the_rest"),
)  # fmt: skip


# ---- running them ----


def patched(mutant: Mutant) -> tuple[str, str]:
    """Return the source of the mutant's file, before and after the replacement."""
    before = (PACKAGE / mutant.file).read_text(encoding="utf-8")
    count = before.count(mutant.old)
    if count != 1:
        raise ValueError(f"{mutant.name}: its text occurs {count} times in {mutant.file}, not once")
    return before, before.replace(mutant.old, mutant.new)


def judge(mutant: Mutant, limit: float) -> Verdict:
    """Run the tests of a mutant, on a copy of the package, until one fails."""
    began = time.monotonic()
    killer = None
    with tempfile.TemporaryDirectory(prefix="mutant-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder)
        ignored = shutil.ignore_patterns("__pycache__", ".*")
        for name in ("batchify", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        shutil.copy(ROOT / "pyproject.toml", copy)
        (copy / "batchify" / mutant.file).write_text(patched(mutant)[1], encoding="utf-8")
        for command in mutant.tests:
            killer = _killed_by(command, copy, limit)
            if killer is not None:
                break
    return Verdict(mutant, killer, time.monotonic() - began)


def _killed_by(command: tuple[str, ...], folder: Path, limit: float) -> str | None:
    """Run `python -m command` on the package in `folder`; return its first failure, or None."""
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=os.name == "posix",
    )
    try:
        told, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        _kill(process)
        return f"{' '.join(command)} (hangs)"
    _kill(process)  # and children that it left behind
    if process.returncode == 0:
        return None
    for line in told.splitlines():
        if line.startswith(("FAILED ", "ERROR ")):
            return line.split()[1]
        if line.startswith("python -m tests.schedules"):
            return line
    if "Timeout" in told or process.returncode < 0:
        return f"{' '.join(command)} (hangs or dies)"
    raise RuntimeError(f"{' '.join(command)} cannot be run ({process.returncode}):\n{told}")


def _kill(process: subprocess.Popen[str]) -> None:
    try:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except ProcessLookupError:
        pass
    process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.mutants",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="names of mutants; default: all")
    parser.add_argument("--jobs", type=int, default=2, help="how many mutants to test at a time")
    parser.add_argument("--limit", type=float, default=240.0, help="maximum seconds per command")
    parser.add_argument("--list", action="store_true", help="only list the mutants")
    asked = parser.parse_args()
    known = {mutant.name: mutant for mutant in MUTANTS}
    unknown = [name for name in asked.names if name not in known]
    if unknown:
        parser.error(f"no mutants: {', '.join(unknown)}")
    chosen = [known[name] for name in asked.names] or MUTANTS
    for mutant in chosen:
        patched(mutant)
        if asked.list:
            print(f"{mutant.name:44} {mutant.file}")
    if asked.list:
        return 0
    began = time.monotonic()
    alive = []
    print(f"{'mutant':44} {'seconds':>7}  killed by")
    with ThreadPoolExecutor(asked.jobs) as pool:
        judging = [pool.submit(judge, mutant, asked.limit) for mutant in chosen]
        for judged in as_completed(judging):
            verdict = judged.result()
            told = verdict.killer or "SURVIVES"
            print(f"{verdict.mutant.name:44} {verdict.seconds:7.1f}  {told}", flush=True)
            if verdict.killer is None:
                alive.append(verdict.mutant.name)
    took = time.monotonic() - began
    print(f"{len(chosen) - len(alive)} of {len(chosen)} mutants killed in {took:.0f} s")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
