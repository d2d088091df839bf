"""Sums over engines that are freed while they are read."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from batchify import totals
from tests.api.scrapes import Scraped, Short
from tests.limits import LIMIT

pytest.importorskip("prometheus_client")

from batchify.prometheus import install


@pytest.fixture
def scraped() -> Iterator[Scraped]:
    found = Scraped()
    end = install(found.registry)
    yield found
    end()


def test_an_instance_may_be_freed_below_a_reader(scraped: Scraped) -> None:
    """As in a collection that the garbage collector begins there: no deadlock, and it counts."""
    one = Short()
    one.f(1).result(LIMIT)
    one.f.close(LIMIT)
    before = totals.totals()["short"].succeeded
    with totals._lock:
        del one
        gc.collect()
    assert totals.totals()["short"].succeeded == before
    assert not totals._collected


def test_an_instance_may_be_freed_during_a_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that is neither alive nor gone yet is counted all the same."""
    totals.follow()
    one = [Short()]
    one[0].f(1).result(LIMIT)
    one[0].f.close(LIMIT)
    before = totals.totals()["short"].succeeded
    carry_over = totals._carry_over

    def and_then_it_goes() -> None:
        carry_over()
        one.clear()
        gc.collect()

    with monkeypatch.context() as patch:
        patch.setattr(totals, "_carry_over", and_then_it_goes)
        assert totals.totals()["short"].succeeded == before
    assert totals.totals()["short"].succeeded == before
