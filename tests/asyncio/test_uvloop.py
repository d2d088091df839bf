"""Run tests of event loops again on uvloop, if it is installed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from batchify import batched
from tests.asyncio.test_awaiting import *  # noqa: F403
from tests.asyncio.test_batches import *  # noqa: F403
from tests.asyncio.test_cancel import *  # noqa: F403
from tests.asyncio.test_capacity import *  # noqa: F403
from tests.asyncio.test_circular_waits import *  # noqa: F403
from tests.asyncio.test_close import *  # noqa: F403
from tests.asyncio.test_loop_end import *  # noqa: F403
from tests.reliability.test_loops import *  # noqa: F403

uvloop: Any = pytest.importorskip("uvloop", reason="uvloop is not installed")


@pytest.fixture(autouse=True)
def _uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every new loop a uvloop, in `asyncio.run` and for the background loop."""
    monkeypatch.setattr(asyncio, "new_event_loop", uvloop.new_event_loop)
    monkeypatch.setattr(asyncio.events, "new_event_loop", uvloop.new_event_loop)


def test_it_is_uvloop() -> None:
    @batched
    async def loops(items: list[int]) -> list[Any]:
        return [asyncio.get_running_loop() for _ in items]

    async def main() -> Any:
        assert type(asyncio.get_running_loop()).__module__ == "uvloop"
        return await loops(1)

    assert isinstance(asyncio.run(main()), uvloop.Loop)
