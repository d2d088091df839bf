"""Callers append to the queue without a lock while another thread admits entries."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from batchify.forming import Grouped, Plain, Route, Waiting
from batchify.terms import NO_TERMS


class Entry:
    _terms = NO_TERMS

    def __init__(self, state: Any) -> None:
        self._s = state
        self._v = None
        self._t = 0.0


class Intake(deque[Any]):
    """An intake to which another thread appends just after it was found empty."""

    late: Entry | None = None

    def __len__(self) -> int:
        length = super().__len__()
        if not length and self.late is not None:
            late, self.late = self.late, None
            self.append(late)
        return length


class Engine:
    def holders(self, me: Any) -> None:
        return None


@pytest.mark.parametrize("capacity", [3, 4])
@pytest.mark.parametrize("queue", [Plain, Grouped])
def test_an_entry_that_comes_late_does_not_wait_for_capacity_that_is_free(
    queue: type[Plain] | type[Grouped], capacity: int
) -> None:
    route = Route(Engine(), None, key="all")
    intake = Intake([Entry(Waiting(route, None)), Entry(Waiting(route, None))])
    intake.late = late = Entry(route)
    forming = queue(intake, 64, 0.0, capacity)
    forming.waiting = 2
    forming.accept()
    assert list(intake) == [late]
    assert not forming.is_pressed
    assert forming.seen != len(intake)  # so the caller dispatches again
    forming.accept()
    assert forming.pending == 3
