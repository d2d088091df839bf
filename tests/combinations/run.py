"""`run`: one run of a plan; `make_test`: a test that runs many plans."""

from __future__ import annotations

import asyncio
import faulthandler
import functools
import sys
import time
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings

from tests.combinations.actors import Play
from tests.combinations.function import make
from tests.combinations.ledger import Ledger, Sent, top
from tests.combinations.plan import PLANS, Plan, Round
from tests.limits import LIMIT
from tests.manual import in_thread, until

# ---- one run ----


def run(plan: Plan) -> None:
    """Run a plan; raise AssertionError if anything is wrong."""
    faulthandler.dump_traceback_later(2 * LIMIT, file=sys.__stderr__)
    try:
        Run(plan).run()
    except BaseException as error:
        print(f"\nfailed: {error}\nto run it again: {plan!r}\n", file=sys.stderr, flush=True)
        raise
    finally:
        faulthandler.cancel_dump_traceback_later()


class Run:
    """One run of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.ledger = Ledger(plan)
        self.ledger.functions = make(plan, self.ledger)

    @property
    def function(self) -> Any:
        return self.ledger.functions()

    def run(self) -> None:
        first = 0
        for one in self.plan.rounds:
            self.play(one, first)
            first += len(one.actors)
        self.wait("the last close", self.function.close)
        self.check_nothing_left()
        self.ledger.check_end()
        self.tell()

    def tell(self) -> None:
        complaints = self.ledger.complaints
        assert not complaints, "\n".join(complaints[:10])

    def wait(self, name: str, function: Any) -> None:
        """Call something that must come back."""
        call = in_thread(function)
        call.thread.join(LIMIT)
        if not call.is_done():
            self.hang(name)
        call.result(0)

    def hang(self, name: str) -> None:
        faulthandler.dump_traceback(all_threads=True, file=sys.__stderr__)
        self.tell()
        raise AssertionError(f"{name} hangs")

    def play(self, one: Round, first: int) -> None:
        """Run one round: the actors, changes of settings, and the end."""
        function, ledger = self.function, self.ledger
        function.start()
        plays = [Play(ledger, first + at, actor) for at, actor in enumerate(one.actors)]
        calls = [in_thread(play.run) for play in plays]
        for name, value in one.changes:
            time.sleep(0.001)
            self.wait(f"{name} = {value}", functools.partial(self.change, name, value))
        ends: dict[str, Any] = {
            "rest": self.function.flush,
            "close": function.close,
            "cancel": functools.partial(function.close, cancel=True),
            "aclose": lambda: asyncio.run(function.aclose()),
            "acancel": lambda: asyncio.run(function.aclose(cancel=True)),
        }
        if not one.is_patient:
            self.allow(one.end)
            self.wait(one.end, ends[one.end])
        end = time.monotonic() + LIMIT
        while not all(call.is_done() for call in calls):
            if time.monotonic() > end:
                self.hang("an actor")
            self.wait("stats", ledger.sample)
            time.sleep(0.002)
            if None in self.plan.of("linger"):  # nothing else dispatches a partial batch
                self.wait("a flush", self.function.flush)
        for call in calls:
            call.result()
        self.allow(one.end)  # loops have ended, and their items may still be queued
        self.wait(one.end, ends[one.end])
        if any(actor.leaves for actor in one.actors) and one.end == "rest":
            # A flush does not wait for calls that wait for capacity on an ended loop.
            until(lambda: self.function.flush() or all(map(Sent.is_over, ledger.sent.values())))
        for sent in ledger.sent.values():
            ledger.check(
                sent.is_over(), f"item {sent.item.number} ({sent.way}) has no end: {sent.future}"
            )
        ledger.sample()
        stats = function.stats()
        ledger.check(stats.pending == stats.running == 0, f"after the end: {stats}")
        self.tell()

    def allow(self, end: str) -> None:
        """Allow the outcomes that the end of this round causes."""
        self.ledger.may_close = self.ledger.may_close or end != "rest"
        self.ledger.may_cancel = self.ledger.may_cancel or "cancel" in end

    def change(self, name: str, value: Any) -> None:
        """Set an option, as far as the others allow it."""
        function = self.function
        size, capacity = function.size, function.capacity
        if name == "size":
            is_right = capacity is None or value <= capacity
        else:
            is_right = name != "capacity" or value is None or value >= size
        if is_right and name != "linger":
            self.ledger.most[name] = max(self.ledger.most[name], top(value))
        try:
            setattr(function, name, value)
        except ValueError:
            self.ledger.check(not is_right, f"{name} = {value} was refused")
        else:
            self.ledger.check(is_right, f"{name} = {value} was not refused")
            self.ledger.check(getattr(function, name) == value, f"{name} is not {value}")

    def check_nothing_left(self) -> None:
        """Check that after a close nothing is kept anywhere."""
        for engine in self.function._scope().engines():
            forming = engine.forming
            until(lambda engine=engine: not (engine.batches or engine.watched))
            held = {
                "routes": engine.routes,
                "groups": getattr(forming, "by_kin", None),
                "deadlines": forming.minded,
                "delayed": getattr(forming, "_delayed", None),
                "line": getattr(getattr(forming, "line", None), "entries", None),
                "intake": engine.intake,
                "chunks": forming.chunks,
                "ended": engine._ended,
                "nested": engine._nested,
            }
            for name, things in held.items():
                self.ledger.check(not things, f"{name} are left: {things}")
            counts = ("running", "dead", "waiting", "grouped", "chunked", "pending")
            left = {name: getattr(forming, name) for name in counts if getattr(forming, name)}
            self.ledger.check(not left, f"counts are left: {left}")
        until(lambda: self.function.stats().workers == 0)


# ---- as a test ----


def make_test(profile: settings, *more: Phase) -> Any:
    """Return the test, with as many examples as the profile has."""
    how = settings(
        profile,
        deadline=None,
        database=None,  # threads vary: failures may not repeat
        phases=[Phase.generate, *more],
        suppress_health_check=list(HealthCheck),
    )
    return how(given(PLANS)(run))
