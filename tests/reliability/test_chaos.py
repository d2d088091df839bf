"""Chaos runs, and proof that their checker detects a broken engine."""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from batchify import Retry, Stats
from batchify.engine.base import Engine
from batchify.engine.running import Batch, Running
from batchify.engine.threads import ThreadEngine
from batchify.forming import Grouped
from batchify.forming.states import Group
from batchify.mapping import Bulk
from batchify.outcome import Settle
from tests import chaos
from tests.chaos import plan, process
from tests.chaos.__main__ import main
from tests.chaos.judge import Judge
from tests.chaos.ledger import Ledger
from tests.chaos.outcomes import ENDED
from tests.chaos.run import settle_all
from tests.chaos.soak import Soak, slope_of
from tests.chaos.town import Town
from tests.limits import LIMIT

# Other seeds for the long runs: CHAOS_SEED, ... + 3.
FIRST = int(os.environ.get("CHAOS_SEED", "0"))
SEEDS = range(FIRST, FIRST + 4) if FIRST else (101, 102, 104, 105)
LONG = int(os.environ.get("CHAOS_ITEMS", "500000"))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_chaos(seed: int) -> None:
    report = chaos.run_chaos(20_000, seed, patience=LIMIT)
    print(report)
    assert report.is_clean, f"\n{report}"
    assert report.items == 20_000
    assert len(report.faults) + len(report.events) > 30


@pytest.mark.deep
@pytest.mark.timeout(1800)  # half a million items, on a machine however busy
@pytest.mark.parametrize("seed", SEEDS)
def test_much_chaos(seed: int) -> None:
    """Two million items in total; `CHAOS_SEED` changes the seeds, `CHAOS_ITEMS` the number."""
    report = chaos.run_chaos(LONG, seed)
    print(report)
    assert report.is_clean, f"\n{report}"
    assert report.items == LONG
    assert len(report.faults) + len(report.events) > 60


def test_the_table_shows_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--items", "500", "--seed", "4", "--threads", "2", "--loops", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("seed 4\n")
    for line in ("items", "batches", "lost", "duplicated", "hung", "misrouted", "broken"):
        assert f"\n  {line} " in printed


def test_epochs_account_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "EPOCH", 2000)
    monkeypatch.setattr(plan, "HANG", 0.01)
    opened = []
    open_epoch = Ledger.open_epoch

    def noted(self: Ledger, epoch: int, items: int) -> None:
        opened.append(items)
        open_epoch(self, epoch, items)

    monkeypatch.setattr(Ledger, "open_epoch", noted)
    report = chaos.run_chaos(5000, 6, threads=2, loops=1, patience=LIMIT)
    assert report.is_clean, f"\n{report}"
    assert (report.items, opened) == (5000, [2000, 2000, 1000])


def test_a_retry_that_the_end_of_its_loop_cut_off_is_no_fault() -> None:
    ledger = Ledger(10, 1)
    town = Town(ledger)
    judge, target = Judge(town, chaos.Report(1)), town["co_again"]
    ledger.retries[target.index] = judge.endings[target.index, ENDED] = 1
    stats = Stats(submitted=1, accepted=1, failed=1)
    target.call = SimpleNamespace(stats=lambda: stats, capacity=None)
    assert judge.wrong_facts(target) == []
    ledger.retries[target.index] = 2
    assert judge.wrong_facts(target) == ["retried"]


# ---- the memory of a soak ----


HOUR = range(0, 3600, 20)


def saw(seconds: float) -> float:
    """Memory that goes up and down by a MiB, without an end."""
    return 50 + (seconds % 70) / 70


def test_a_leak_is_growth() -> None:
    slope = slope_of(HOUR, [saw(t) + t / 3600 * 12 for t in HOUR])
    assert slope is not None
    assert slope.is_growth
    assert slope.per_hour == pytest.approx(12, abs=1)


def test_noise_and_a_warm_up_are_no_growth() -> None:
    slope = slope_of(HOUR, [saw(t) + min(t, 600) / 20 for t in HOUR])
    assert slope is not None
    assert not slope.differs
    assert "does not differ from 0" in str(slope)


def test_growth_in_steps_has_a_larger_standard_error() -> None:
    def error(step: int) -> float:
        slope = slope_of(HOUR, [50 + t // step % 2 for t in HOUR])
        assert slope is not None
        return slope.error

    assert error(400) > 2 * error(20)


def test_a_short_run_is_not_judged() -> None:
    slope = slope_of(range(0, 300, 10), range(30))
    assert slope is not None
    assert slope.differs
    assert not slope.is_growth
    assert slope_of(range(5), range(5)) is None


@pytest.mark.deep
def test_a_soak_prints_its_progress_each_minute(capsys: pytest.CaptureFixture[str]) -> None:
    soak = Soak(every=0)
    report = chaos.run_chaos(1000, 7, threads=1, loops=1, patience=LIMIT, soak=soak)
    assert report.is_clean, f"\n{report}"
    assert len(soak.times) == len(soak.resident) == len(soak.blocks) == 1
    assert " items " in capsys.readouterr().out
    assert "too few samples" in str(soak)


# ---- the checker is not blind ----


class Now:
    """Returns True a few times, so that the run continues: it must find a single fault."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked % 10 == 0 and self.asked % 1000 <= 60


Settling = Callable[[Engine, Batch, Settle], None]


def run_broken(
    monkeypatch: pytest.MonkeyPatch,
    is_found: Callable[[chaos.Report], Any],
    patience: float = LIMIT,
) -> chaos.Report:
    """Run short runs until one finds the fault, because only some have the scene that shows it."""
    monkeypatch.setattr(plan, "HANG", 0.01)
    monkeypatch.setattr(plan, "LONG_STALL", 0.01)
    monkeypatch.setattr(plan, "SETTLE", 5.0)  # the fault persists
    for seed in range(5, 55):
        report = chaos.run_chaos(5000, seed, threads=3, loops=1, patience=patience)
        if is_found(report):
            return report
    raise AssertionError(f"the checker is blind:\n{report}")


def tells(text: str) -> Callable[[chaos.Report], bool]:
    return lambda report: any(text in broken for broken in report.broken)


def break_settle(
    monkeypatch: pytest.MonkeyPatch, how: Callable[[Settling, Engine, Batch, Settle], None]
) -> None:
    """Settle a whole batch in another way, now and then."""
    settle: Settle = Engine.settle
    now = Now()

    def broken(self: Engine, batch: Batch, give: Settle) -> None:
        is_whole = len(give.values) == len(batch.futures) > 1
        is_roomy = self.forming.capacity is not None and self.forming.capacity > 1000
        if is_whole and is_roomy and now():
            how(settle, self, batch, give)
        else:
            settle(self, batch, give)

    monkeypatch.setattr(Engine, "settle", broken)


def test_results_shifted_by_one_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(settle: Settling, self: Engine, batch: Batch, give: Settle) -> None:
        values = [*give.values[1:], give.values[0]]
        settle(self, batch, Settle(give.positions, values, give.is_clean))

    break_settle(monkeypatch, shifted)
    run_broken(monkeypatch, lambda report: report.misrouted)


@pytest.mark.deep
def test_a_future_that_is_never_settled_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_the_last(settle: Settling, self: Engine, batch: Batch, give: Settle) -> None:
        batch.futures.pop()
        settle(self, batch, Settle(give.positions[:-1], give.values[:-1], give.is_clean))

    break_settle(monkeypatch, without_the_last)
    run_broken(monkeypatch, lambda report: report.hung, patience=0.5)


@pytest.mark.deep
def test_items_run_twice_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    execute = ThreadEngine.execute
    now = Now()

    def twice(self: ThreadEngine, batch: Batch) -> None:
        if not self.options.isolate and now():
            route = batch.route
            items = [future._v for future in batch.futures] if batch.chunk is None else []
            with contextlib.suppress(BaseException):
                route.function(items, *route.args, **route.kwargs)
        execute(self, batch)

    monkeypatch.setattr(ThreadEngine, "execute", twice)
    run_broken(monkeypatch, lambda report: report.duplicated)


@pytest.mark.deep
def test_a_callback_that_is_called_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    tell: Any = Ledger.tell
    now = Now()

    def twice(self: Ledger, n: int, future: Any) -> None:
        tell(self, n, future)
        if now():
            tell(self, n, future)

    monkeypatch.setattr(Ledger, "tell", twice)
    run_broken(monkeypatch, lambda report: report.duplicated)


@pytest.mark.deep
def test_a_callback_that_is_never_called_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    tell: Any = Ledger.tell
    now = Now()

    def seldom(self: Ledger, n: int, future: Any) -> None:
        if not now():
            tell(self, n, future)

    monkeypatch.setattr(Ledger, "tell", seldom)
    run_broken(monkeypatch, lambda report: report.lost, patience=1.0)


@pytest.mark.deep
def test_wrong_counts_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def miscounted(settle: Settling, self: Engine, batch: Batch, give: Settle) -> None:
        settle(self, batch, give)
        with self._lock:
            self.counts.succeeded += 1

    break_settle(monkeypatch, miscounted)
    report = run_broken(monkeypatch, tells("succeeded"))  # nothing hangs, however slow we are
    assert report.lost == report.duplicated == report.hung == report.misrouted == 0


# ---- nor is it for the policies ----


@pytest.mark.deep
def test_kinds_that_share_a_batch_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    admit = Grouped._admit

    def mixed(self: Grouped, entry: Any, route: Any) -> None:
        others = [group.route for group in self.by_kin.values()]
        admit(self, entry, others[0] if others else route)

    monkeypatch.setattr(Grouped, "_admit", mixed)
    run_broken(monkeypatch, tells("share no batch"))


@pytest.mark.deep
def test_batches_that_are_too_heavy_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    init = Grouped.__init__

    def heavier(self: Grouped, *args: Any) -> None:
        init(self, *args)
        self.max_weight = self.max_weight and self.max_weight + 30

    monkeypatch.setattr(Grouped, "__init__", heavier)
    run_broken(monkeypatch, tells("share no batch"))


@pytest.mark.deep
def test_a_retry_that_is_given_for_a_result_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def tried(self: Running, batch: Batch, give: Settle) -> list[Any]:
        return [None if isinstance(value, Retry) else value for value in give.values]

    monkeypatch.setattr(Running, "_tried", tried)
    run_broken(monkeypatch, lambda report: report.misrouted)


@pytest.mark.deep
def test_an_item_that_is_run_after_its_deadline_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    overdue = Grouped.overdue

    def run_all_the_same(self: Grouped, now: float) -> list[Any]:
        found = overdue(self, now)
        for future in found:
            if isinstance(future._s, Group):
                function = future._s.route.function
                if not inspect.iscoroutinefunction(function):
                    with contextlib.suppress(BaseException):
                        function([future._v])
        return found

    monkeypatch.setattr(Grouped, "overdue", run_all_the_same)
    run_broken(monkeypatch, lambda report: report.duplicated)


@pytest.mark.deep
def test_a_map_out_of_order_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    ready = Bulk.ready

    def reversed_(self: Bulk) -> list[Any] | None:
        found = ready(self)
        return found if found is None else found[::-1]

    monkeypatch.setattr(Bulk, "ready", reversed_)
    run_broken(monkeypatch, lambda report: report.misrouted)


@pytest.mark.deep
def test_errors_of_observers_that_are_not_counted_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tell = Running.tell_observers

    def uncounted(self: Running, batch: Batch, error: BaseException | None) -> None:
        before = self.counts.observer_errors
        tell(self, batch, error)
        if isinstance(self, ThreadEngine):
            self.counts.observer_errors = before

    monkeypatch.setattr(Running, "tell_observers", uncounted)
    run_broken(monkeypatch, tells("observers"))


@pytest.mark.skipif(not process.MAY_FORK, reason=process.NO_FORK)
@pytest.mark.skipif("coverage" in sys.modules, reason="the run does not fork under coverage")
@pytest.mark.deep
def test_a_fork_that_forgets_its_futures_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "forked", lambda self: None)
    run_broken(monkeypatch, tells("the child of a fork"))


def test_a_batch_function_that_never_ends_is_found() -> None:
    ledger = Ledger(10, 1, patience=0.1)
    town = Town(ledger)
    with ledger.begin(town["plain"], [0]):
        settle_all(town)
    assert ledger.broken == ["batch functions never ended: ['plain']"]
