"""Metrics of batches, read from OpenTelemetry's in-memory reader."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from batchify import batched
from tests.api.spans import Seen
from tests.limits import LIMIT
from tests.own_process import in_own_process, output_of_script

pytest.importorskip("opentelemetry.sdk")


def test_metrics_agree_with_stats() -> None:
    """In its own process: the SDK drops further functions once an instrument has 2,000 points."""
    in_own_process("api.test_otel_metrics", "_check_metrics()")


def _check_metrics() -> None:
    seen = Seen()
    seen.instrument()

    @batched(size=2, linger=None, capacity=10, name="told")
    def f(items: list[int]) -> None:
        if 13 in items:
            raise ValueError

    futures = [f(n) for n in (1, 2, 3, 13)]
    for future in futures:
        future.exception(LIMIT)
    f(5).cancel()
    f(6)
    assert seen.values("messaging.client.sent.messages", "told") == {"": 6}
    assert seen.values("batchify.items.pending", "told") == {"": 1}
    assert seen.values("batchify.items.running", "told") == {"": 0}
    assert seen.values("batchify.items.capacity", "told") == {"": 10}
    assert seen.values("batchify.workers", "told") == {"": 1}
    f.close(LIMIT)
    assert seen.values("batchify.items.ended", "told") == {
        "succeeded": 3, "failed": 2, "cancelled": 1, "expired": 0, "rejected": 0,
    }  # fmt: skip
    started = seen.values("batchify.batches.started", "told")
    assert {key: count for key, count in started.items() if count} == {"size": 2, "close": 1}
    assert seen.values("messaging.client.consumed.messages", "told") == {"": 3, "ValueError": 2}
    assert seen.values("batchify.items.retried", "told") == {"": 0}
    assert seen.values("batchify.items.deduplicated", "told") == {"": 0}
    sizes = seen.points("batchify.batch.size", "told")
    assert {key: (point.count, point.sum) for key, point in sizes.items()} == {
        "": (2, 3), "ValueError": (1, 2),
    }  # fmt: skip
    spans = [span.end_time - span.start_time for span in seen.batches()]  # type: ignore[operator]
    ran = seen.points("messaging.process.duration", "told")
    assert sum(point.sum for point in ran.values()) == pytest.approx(sum(spans) / 1e9)
    assert ran[""].explicit_bounds[:2] == (0.005, 0.01)
    queued = seen.points("batchify.batch.queue_duration", "told")
    assert sum(point.count for point in queued.values()) == 3


def test_an_unbounded_function_has_no_capacity(seen: Seen) -> None:
    f = batched(lambda items: items, capacity=None, name="unbounded")
    f(1).result(LIMIT)
    assert seen.values("batchify.items.capacity", "unbounded") == {}
    assert seen.values("batchify.items.pending", "unbounded") == {"": 0}
    f.close(LIMIT)


def test_metrics_end_and_begin_again() -> None:
    """The instruments of a provider stay; a batch counts once, however many instrument."""
    seen = Seen()
    f = batched(lambda items: items, name="instrumented again")

    def call() -> tuple[int | None, int | None]:
        f(1).result(LIMIT)
        f.close(LIMIT)  # until its batch was reported
        f.start()
        told = ("messaging.client.sent.messages", "messaging.client.consumed.messages")
        sent, consumed = (seen.values(metric, "instrumented again").get("") for metric in told)
        return sent, consumed

    stop = seen.instrument()
    assert call() == (1, 1)
    stop()
    assert call() == (None, 1)
    first, second = seen.instrument(), seen.instrument(f)
    assert call() == (3, 2)
    first()
    first()
    assert call() == (4, 3)
    second()
    assert call() == (None, 3)
    f.close(LIMIT)


def test_the_code_of_the_page_runs(tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "observability.md").read_text("utf-8")
    section = page.partition("## OpenTelemetry")[2].partition("\n## ")[0]
    code = "\n".join(re.findall(r"^```py\n(.*?)^```$", section, re.MULTILINE | re.DOTALL))
    assert "instrument(" in code
    output_of_script(tmp_path, code)  # in its own process, which has no other functions
