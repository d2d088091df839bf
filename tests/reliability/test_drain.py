"""`drain`, `cancel_all` and `unresolved`: items that are not done (contract 6 and 8)."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from batchify import Deadlock, Retry, batched, testing
from batchify.engine import lifecycle
from batchify.testing import cancel_all, drain, unresolved
from tests.limits import LIMIT
from tests.manual import Gated
from tests.testing_helpers import NEVER, Batches, awork


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return `unresolved()` without items of other tests on stopped clocks."""
    before = lifecycle.all_engines()
    found = testing._engines
    monkeypatch.setattr(
        testing, "_engines", lambda: [e for e in found() if not any(e is b for b in before)]
    )


def test_drain_runs_everything(alone: None) -> None:
    f: Any = batched(lambda items: [g(item) for item in items], linger=None, name="drained f")
    g: Any = batched(Batches(), linger=None, name="drained g")
    tries: list[Any] = []

    def again(items: list[Any]) -> list[Any]:
        tries.append(items)
        return [Retry(after=NEVER)] if len(tries) == 1 else items

    h = batched(again, linger=None, name="drained h")
    futures = [f(1), f(2), h(3)]
    assert unresolved() == {"drained f": 2, "drained h": 1}
    drain(LIMIT)
    assert unresolved() == {}
    assert [futures[0].result(0).result(0), futures[1].result(0).result(0)] == [1, 2]
    assert futures[2].result(0) == 3


def test_drain_names_hung_functions(alone: None) -> None:
    gated = Gated()
    f = batched(gated, name="hangs")
    f(1)
    with pytest.raises(TimeoutError, match="1 of hangs"):
        drain(0.05)
    gated.open()
    drain(LIMIT)
    assert unresolved() == {}


def test_cancel_all(alone: None) -> None:
    gated = Gated()
    f = batched(gated, size=1, name="cancelled")
    running, waits = f(1), f(2)
    gated.wait_started(1)
    opening = threading.Timer(0.05, gated.open)
    opening.start()
    cancel_all(LIMIT)
    assert waits.cancelled()
    assert running.result(0) == ("done", 1)
    assert unresolved() == {}


def test_cancel_all_waits_for_what_was_called_on_a_loop(alone: None) -> None:
    gated = Gated()
    f = batched(gated, name="called on a loop")

    async def main() -> Any:
        future = f(1)
        gated.wait_started(1)
        threading.Timer(0.05, gated.open).start()
        cancel_all(LIMIT)
        return future.cancelled() or future.result(0)

    assert asyncio.run(main()) == ("done", 1)


def test_drain_on_a_loop_is_refused(alone: None) -> None:
    async def main() -> None:
        f = batched(awork, linger=None, name="on a loop")
        future = f(1)
        with pytest.raises(Deadlock):
            drain(LIMIT)
        await future

    asyncio.run(main())
