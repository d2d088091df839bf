"""`stats().explain()`: which option would make larger batches (contract 2, `workers`)."""

from __future__ import annotations

import pytest

from batchify.distribution import Recorder
from batchify.stats import REASONS, Limits, Stats


def explained(
    reason: str, *, workers: int, size: int = 4, linger: float | None = 0.0, others: int = 0
) -> str:
    """Explain ten batches of `size` items that were dispatched because of `reason`."""
    recorder = Recorder()
    recorder.add([size] * 10)
    reasons = {**dict.fromkeys(REASONS, 0), reason: 10 - others}
    reasons["flush"] += others
    return Stats(
        batches=10,
        reasons=reasons,
        sizes=recorder.distribution(),
        limits=Limits(size=64, linger=linger, workers=workers, capacity=10_000),
    ).explain()


ADVICE = "fewer workers, or a linger, would make larger batches"


@pytest.mark.parametrize("workers", [2, 16])
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("others", [0, 4])
def test_free_workers_that_make_small_batches(workers: int, size: int, others: int) -> None:
    text = explained("idle", workers=workers, size=size, others=others)
    assert f"workers={workers}" in text
    assert ADVICE in text


def test_one_worker_cannot_be_fewer() -> None:
    assert "fewer workers" not in explained("idle", workers=1)


@pytest.mark.parametrize("reason", [reason for reason in REASONS if reason != "idle"])
def test_workers_are_no_cause_of_other_reasons(reason: str) -> None:
    assert "fewer workers" not in explained(reason, workers=4, linger=0.01)


def test_the_advice_is_not_given_for_a_few_idle_batches() -> None:
    assert "fewer workers" not in explained("idle", workers=4, others=8)


def test_batches_that_still_run_have_no_size() -> None:
    text = Stats(batches=2, reasons={**dict.fromkeys(REASONS, 0), "idle": 2}).explain()
    assert text.startswith("2 batches started and none has finished yet; 100% of them")
    assert "0 items" not in text
    assert "one by one" not in text


BROKER = Limits(size=500, linger=0.02, workers=1, capacity=10_000, has_broker=True)


def test_a_broker_without_items() -> None:
    assert Stats(limits=BROKER).explain() == "No item has been submitted yet."


@pytest.mark.parametrize(("pending", "running", "items"), [(0, 1, "1 item"), (2, 3, "5 items")])
def test_a_broker_without_a_worker(pending: int, running: int, items: str) -> None:
    """A batch is only what was sent at a time, so its size and reason say nothing."""
    text = Stats(
        accepted=pending + running,
        pending=pending,
        running=running,
        batches=1,
        reasons={**dict.fromkeys(REASONS, 0), "idle": 1},
        limits=BROKER,
    ).explain()
    assert text.startswith(f"{items} submitted, and no worker has answered yet.")
    assert "python -m batchify worker" in text
    assert "on average" not in text
    assert "linger" not in text


def test_a_broker_with_workers() -> None:
    text = Stats(
        accepted=10, succeeded=6, failed=1, running=2, cancelled=1, batches=1, limits=BROKER
    ).explain()
    assert text.startswith(
        "10 items submitted: 6 succeeded, 1 failed, 1 cancelled, 2 without an answer yet."
    )
    assert "workers form the batches" in text
    assert "on average" not in text


def test_explain_differs_for_each_reason() -> None:
    told = {
        Stats(batches=3, reasons={**dict.fromkeys(REASONS, 0), reason: 3}).explain()
        for reason in REASONS
    }
    assert len(told) == len(REASONS)


def test_explain_counts_in_words_and_figures_that_one_reads() -> None:
    def told(batches: int, items: int) -> str:
        recorder = Recorder()
        recorder.add([items] * batches)
        reasons = {**dict.fromkeys(REASONS, 0), "idle": batches}
        return Stats(
            batches=batches, reasons=reasons, sizes=recorder.distribution(), pending=1
        ).explain()

    assert told(1, 1).startswith("1 batch had 1 item on average")
    assert told(12_345, 4321).startswith("12345 batches had 4321 items on average")
    assert told(0, 0) == "No batch has been dispatched yet (1 item pending)."
