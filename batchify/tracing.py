"""Traces: from the calls to the batch that their items ran in.

While somebody traces a function, each of its calls keeps where it came from (its *origin*) with its
future, and whoever traces is there when a batch begins, in the context that it runs in. The hot
path has no room for that: calls go another way then, which each function finds anew when somebody
begins or ends to trace (`decorator.reset_calls`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from .logs import error_text
from .observe import BatchEvent

if TYPE_CHECKING:
    from .future import BatchFuture

log = logging.getLogger("batchify")

End = Callable[[BatchEvent], object]


class Tracer:
    """Traces the functions with certain names."""

    def __init__(self, names: Collection[str] | None) -> None:
        self.names = names  # None: all
        self._unlogged = [None]  # taken by who logs its first error

    def origin(self) -> Any:
        """Where a call comes from; None keeps nothing. Called by the caller: must not raise."""
        raise NotImplementedError

    def begin(self, name: str, reason: str, size: int, queued: float, origins: list[Any]) -> End:
        """A batch begins, in the current context; gives what is to be called at its end.

        Args:
            name, reason, size, queued: as in a `BatchEvent`.
            origins: of its items; of those that came as one chunk, one.
        """
        raise NotImplementedError

    def has_raised(self, error: BaseException, name: str) -> None:
        """Log an error of this tracer; the first one only."""
        try:
            self._unlogged.pop()
        except IndexError:
            return
        log.error("%s: a tracer raised %s", name, error_text(error))


tracers: list[Tracer] = []  # changed by single steps, from any thread


def tracer_of(name: str) -> Tracer | None:
    """Who traces the functions of that name: the last who began to."""
    for tracer in reversed(tracers.copy()):
        if tracer.names is None or name in tracer.names:
            return tracer
    return None


def keep_origin(future: BatchFuture[Any], name: str) -> None:
    """Keep with `future`, which no batch has yet, where its call comes from."""
    tracer = tracer_of(name)
    origin = None if tracer is None else tracer.origin()
    if origin is not None:
        future._origin = origin
