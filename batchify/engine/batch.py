"""A batch that runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import BatchAborted
from ..forming import Route
from ..future import BatchFuture, Failure
from ..observe import BatchEvent
from ..outcome import BatchSpec, Call, Execution, execute, execute_rest, make_call
from ..tracing import Tracer, tracer_of
from ..unasked import ErrorReport

if TYPE_CHECKING:
    from .running import Running


class Batch:
    """A batch that runs. Its futures have it as their state.

    A chunk is a batch with one future for all its items: the list of their outcomes.
    """

    is_running = True
    # Not in `__init__`, which would take twice as long.
    chunk: list[Any] | None = None  # the outcomes so far
    given: list[Any]  # the items, once it has begun
    talk: Execution | None = None  # see `execute`; None: nothing but the first call so far
    error: BaseException | None = None  # what it failed with, once it is over
    has_begun = False  # the function may have been called
    is_flushed = False  # some of its items are being flushed
    size = 0  # how many items
    left = 0  # how many of them are not settled
    ran = 0.0  # seconds until the last was settled
    thread = 0  # the ident of the thread that runs it
    report: ErrorReport | None = None  # of the errors of its items

    def __init__(self, engine: Running, route: Route, reason: str, began: float) -> None:
        self.engine = engine
        self.route = route
        self.reason = reason
        self.began = began
        self.futures: list[BatchFuture[Any]] = []

    @property
    def queued(self) -> float:
        """For how many seconds the oldest had waited."""
        return max(0.0, self.began - self.futures[0]._t)

    def report_error(self, failure: Failure) -> None:
        """Add the failure of one item to this batch's report."""
        if self.report is None:
            self.report = ErrorReport(self.engine.options.name)
        failure.report_to(self.report)

    def begin(self, can_await: bool) -> Call | None:
        """Begin to run it: what to call first; None when `execute` is to say so."""
        self.has_begun = True
        if self.chunk is None:
            self.given = [future._v for future in self.futures]
        else:
            self.given = self.futures[0]._v
        route, options = self.route, self.engine.options
        work: BatchSpec | None = route.work  # the same for all batches of a route
        if work is None:
            work = route.work = BatchSpec(
                route.function,
                route.args,
                route.kwargs,
                options.on_error,
                route.batched,
                options.isolate,
                can_await,
                options.name,
            )
        if options.dedupe is not None:
            return None
        return make_call(work, self.given.copy())

    def begin_talk(self, answers: list[Any]) -> None:
        """Have `execute` lead from here: from the first answer on, if there is one."""
        work: BatchSpec = self.route.work
        if answers:
            self.talk = execute_rest(work, self.given, [answers.pop()])
        else:
            keys = [future._terms.dedupe_key for future in self.futures]
            self.talk = execute(work, self.given, keys)

    def event(self, error: BaseException | None) -> BatchEvent:
        """What is told of it when it is over, with what it failed with."""
        name = self.engine.options.name
        return BatchEvent(name, self.reason, self.size, self.queued, self.ran, error)

    def begin_trace(self) -> Callable[[], None] | None:
        """Begin its trace, in the context that it is to run in; gives what ends it, if any."""
        name = self.engine.options.name
        tracer = tracer_of(name)
        if tracer is None:
            return None
        origins = [one._origin for one in self.futures if one._origin is not None]
        try:
            end = tracer.begin(name, self.reason, self.size, self.queued, origins)
        except BaseException as error:  # as with observers: also SystemExit
            tracer.has_raised(error, name)
            self.engine.count_observer_errors(1)
            return None
        return partial(self._end_trace, tracer, end)

    def _end_trace(self, tracer: Tracer, end: Callable[[BatchEvent], object]) -> None:
        event = self.event(BatchAborted() if self.left and self.error is None else self.error)
        try:
            end(event)
        except BaseException as error:
            tracer.has_raised(error, event.name)
            self.engine.count_observer_errors(1)

    def holders(self, me: Any) -> list[Any] | None:
        return self.engine.holders_of(self, me)
