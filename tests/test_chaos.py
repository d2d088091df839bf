"""Short chaos runs, and proof that their checker sees what a broken engine does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from batchify.engine.base import Engine
from batchify.engine.running import Batch
from batchify.engine.threads import ThreadEngine
from batchify.outcome import Give
from tests import chaos


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_chaos(seed: int) -> None:
    report = chaos.run_chaos(20_000, seed, patience=30)
    print(report)
    assert report.is_clean, f"\n{report}"
    assert report.items == 20_000
    assert len(report.faults) > 15
    assert len(report.events) > 20


def test_the_table_tells_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert chaos.main(["--items", "500", "--seed", "4", "--threads", "2", "--loops", "1"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("seed 4\n")
    for line in ("items", "batches", "lost", "duplicated", "hung", "misrouted", "broken"):
        assert f"\n  {line} " in printed


# ---- the checker is not blind ----


class Now:
    """Says yes a few times, so that the run goes on: a single fault is to be found."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.asked % 10 == 0 and self.asked <= 60


Settle = Callable[[Engine, Batch, Give], None]


def run_broken(monkeypatch: pytest.MonkeyPatch, patience: float = 0.5) -> chaos.Report:
    monkeypatch.setattr(chaos, "HANG", 0.01)
    report = chaos.run_chaos(5000, 5, threads=3, loops=1, patience=patience)
    assert not report.is_clean
    return report


def break_settle(
    monkeypatch: pytest.MonkeyPatch, how: Callable[[Settle, Engine, Batch, Give], None]
) -> None:
    """Now and then, settle a whole batch in another way."""
    settle: Settle = Engine.settle
    now = Now()

    def broken(self: Engine, batch: Batch, give: Give) -> None:
        is_whole = len(give.values) == len(batch.futures) > 1
        is_roomy = self.forming.capacity is not None and self.forming.capacity > 1000
        if is_whole and is_roomy and now():
            how(settle, self, batch, give)
        else:
            settle(self, batch, give)

    monkeypatch.setattr(Engine, "settle", broken)


def test_results_shifted_by_one_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def shifted(settle: Settle, self: Engine, batch: Batch, give: Give) -> None:
        values = [*give.values[1:], give.values[0]]
        settle(self, batch, Give(give.places, values, give.is_clean))

    break_settle(monkeypatch, shifted)
    assert run_broken(monkeypatch).misrouted > 0


def test_a_future_that_is_never_settled_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_the_last(settle: Settle, self: Engine, batch: Batch, give: Give) -> None:
        batch.futures.pop()
        settle(self, batch, Give(give.places[:-1], give.values[:-1], give.is_clean))

    break_settle(monkeypatch, without_the_last)
    assert run_broken(monkeypatch).hung > 0


def test_items_run_twice_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    execute = ThreadEngine.execute
    now = Now()

    def twice(self: ThreadEngine, batch: Batch) -> None:
        if now():
            route = batch.route
            with contextlib.suppress(BaseException):
                route.function(batch.items(), *route.args, **route.kwargs)
        execute(self, batch)

    monkeypatch.setattr(ThreadEngine, "execute", twice)
    assert run_broken(monkeypatch).duplicated > 0


def test_a_callback_that_is_told_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    tell: Any = chaos.Ledger.tell
    now = Now()

    def twice(self: chaos.Ledger, n: int, future: Any) -> None:
        tell(self, n, future)
        if now():
            tell(self, n, future)

    monkeypatch.setattr(chaos.Ledger, "tell", twice)
    assert run_broken(monkeypatch).duplicated > 0


def test_a_callback_that_is_never_told_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    tell: Any = chaos.Ledger.tell
    now = Now()

    def seldom(self: chaos.Ledger, n: int, future: Any) -> None:
        if not now():
            tell(self, n, future)

    monkeypatch.setattr(chaos.Ledger, "tell", seldom)
    assert run_broken(monkeypatch).lost > 0


def test_wrong_counts_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def miscounted(settle: Settle, self: Engine, batch: Batch, give: Give) -> None:
        settle(self, batch, give)
        with self._lock:
            self.counts.succeeded += 1

    break_settle(monkeypatch, miscounted)
    report = run_broken(monkeypatch, patience=10.0)  # nothing hangs, however slow the machine
    assert any("succeeded" in text for text in report.broken)
    assert report.lost == report.duplicated == report.hung == report.misrouted == 0
