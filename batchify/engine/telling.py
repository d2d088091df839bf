"""The way out: telling those who wait for futures that are done."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..future import ERROR, RESULT, BatchFuture, Done, Failure, fire
from ..interpreter import has_gil
from ..loopfuture import LoopFuture

PENDING = object()  # the outcome, in a chunk, of an item that has none yet


class Telling:
    """Who waits for what, and how they hear of it."""

    def __init__(self) -> None:
        self.watched: dict[BatchFuture[Any], deque[Callable[[Any], object]]] = {}
        self.has_loop_callers = False
        self.has_gil = has_gil()

    def pass_lock(self) -> None:
        """See `interpreter`: for who has written, and is about to read, where there is no GIL."""
        raise NotImplementedError

    def _announce(self, futures: Sequence[BatchFuture[Any]]) -> None:
        """Tell those who wait for `futures`, which are done: loops first, then callbacks."""
        if self.has_loop_callers:
            self._post(futures)
        watched = self.watched
        if watched:
            for future in futures:
                pokes = watched.pop(future, None)
                if pokes is not None:
                    fire(pokes, future)

    def _end_with(
        self,
        futures: Iterable[BatchFuture[Any]],
        error: Callable[[], Exception],
        kind: type[Failure] = Failure,
    ) -> list[BatchFuture[Any]]:
        """End futures with an error (under the lock); gives them, to be announced."""
        ended = []
        for future in futures:
            state = future._s
            if state.__class__ is Done:
                continue
            outcomes = getattr(state, "chunk", None)
            if outcomes is None:
                future._v = kind(error())
                future._s = ERROR
            else:  # each of its items ends on its own
                future._v = [Failure(error()) if one is PENDING else one for one in outcomes]
                future._s = RESULT
            ended.append(future)
        return ended

    def _post(self, futures: Sequence[BatchFuture[Any]]) -> None:
        """Have those that were made on loops woken there."""
        by_port: dict[Any, list[LoopFuture[Any]]] = {}
        for future in futures:
            if isinstance(future, LoopFuture):
                by_port.setdefault(future._port, []).append(future)
        for port, ended in by_port.items():
            port.post(ended)
