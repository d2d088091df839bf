"""A machine that cannot start threads loses no item."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from batchify import DeadlineExceeded
from batchify.engine.seam import ThreadSeam
from tests.api.sources import any_source, check, echo
from tests.gates import SOON
from tests.limits import LIMIT
from tests.manual import Gated, ManualSeam, batched_with

# ---- a machine without threads to spare ----


class NoThreads(ManualSeam):
    def spawn(self, target: Callable[..., None], args: tuple[Any, ...], name: str) -> Any:
        raise RuntimeError("can't start new thread")


@any_source
def test_when_no_thread_can_be_started(source: Any) -> None:
    f = batched_with(NoThreads(), echo, size=2)
    with pytest.raises(RuntimeError, match="new thread"):
        f(1)
    with pytest.raises(RuntimeError, match="new thread"):
        list(f.map(source(range(5))))
    stats = f.stats()
    check(stats)
    assert (stats.pending, stats.running) == (0, 0)
    got = f.map(source(range(5)), return_exceptions=True)
    assert [type(x) for x in got] == [RuntimeError] * 5
    assert f.stats().pending == 0


# ---- deadlines ----


class Scarce(ThreadSeam):
    """A machine that cannot start threads whose name ends like this."""

    def __init__(self, ending: str) -> None:
        self.ending = ending

    def spawn(self, target: Any, args: Any, name: str) -> Any:  # type: ignore[override]
        if self.ending and name.endswith(self.ending):
            raise RuntimeError("can't start new thread")
        return ThreadSeam.spawn(target, args, name)


def test_deadlines_count_again_when_there_are_threads_again() -> None:
    seam = Scarce("deadlines")
    gated = Gated()
    f = batched_with(seam, gated, size=1)
    f(0)
    gated.wait_started(1)
    unminded = f.options(deadline=SOON)(1)  # no thread to be had: its call must not fail
    seam.ending = ""
    late = f.options(deadline=2 * SOON)(2)
    assert isinstance(late.exception(LIMIT), DeadlineExceeded)
    assert isinstance(unminded.exception(LIMIT), DeadlineExceeded)
    gated.open()
    f.flush(LIMIT)
    assert gated.batches == [[0]]
