"""Connect traces: from each call to the batch that its item ran in.

While a function is traced, each call stores its *origin*, such as the caller's span, with its
future, and the tracer is called when a batch begins, in the context of the batch. The fast path of
a call does none of this, so a new tracer makes every function choose its path again
(`decorator.reset_calls`). `otel` derives its tracer from `Tracer`.
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
    """A tracer of the functions with certain names."""

    def __init__(self, names: Collection[str] | None) -> None:
        self.names = names  # None: all functions
        self._unlogged = [None]  # removed when its first error is logged

    def origin(self) -> Any:
        """Return the origin of a call, or None. The caller's thread runs it; it must not raise."""
        raise NotImplementedError

    def begin(self, name: str, reason: str, size: int, queued: float, origins: list[Any]) -> End:
        """Begin a batch in the current context, and return a function to call when it ends.

        Args:
            name: As in a `BatchEvent`.
            reason: As in a `BatchEvent`.
            size: As in a `BatchEvent`.
            queued: As in a `BatchEvent`.
            origins: The origins of its items; items submitted as one chunk have one in common.
        """
        raise NotImplementedError

    def has_raised(self, error: BaseException, name: str) -> None:
        """Log the first error of this tracer, and no other."""
        try:
            self._unlogged.pop()
        except IndexError:
            return
        log.error("%s: a tracer raised %s", name, error_text(error))


tracers: list[Tracer] = []  # changed without a lock, by single C calls


def tracer_of(name: str) -> Tracer | None:
    """Return the tracer of the functions with that name; of several, the one added last."""
    for tracer in reversed(tracers.copy()):
        if tracer.names is None or name in tracer.names:
            return tracer
    return None


def keep_origin(future: BatchFuture[Any], name: str) -> None:
    """Store the origin of the current call in `future`, which is not in a batch yet."""
    tracer = tracer_of(name)
    origin = None if tracer is None else tracer.origin()
    if origin is not None:
        future._origin = origin
