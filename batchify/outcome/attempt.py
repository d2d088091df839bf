"""One call of the function, with a batch or a piece of it."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncGenerator, Generator
from typing import Any, NamedTuple

from ..future import Failure
from ..options import kind
from ..retry import Retry
from .faults import bad_result, element_failure, failure_of
from .talk import Ask, Give, Raised, Work
from .values import values_of

log = logging.getLogger("batchify")


class Lost(NamedTuple):
    """A piece of a batch that failed as a whole.

    `has_raised`: the function raised, because of its items as far as one can tell; else it ran to
    its end, or somebody stopped it (`is_stopped`).
    """

    places: range
    failure: Failure
    has_raised: bool = False
    is_stopped: bool = False


Attempt = Generator[Ask | Give, Any, Lost | None]


def attempt(work: Work, items: list[Any], places: range) -> Attempt:
    """Call the function with the items at `places`; gives what failed as a whole."""
    answer = yield asked(work, items[places.start : places.stop])
    return (yield from settle(taken_apart(answer, work, items, places)))


def asked(work: Work, items: list[Any]) -> Ask:
    """What the driver is to call. The function may change `items` at will: a copy."""
    return Ask(work.function, (items, *work.args), work.kwargs)


def taken_apart(answer: Any, work: Work, items: list[Any], places: range) -> Give | Lost | Attempt:
    """What was given back for the items at `places`, to be settled; a stream settles itself."""
    if type(answer) is Raised:
        return _raised(places, answer)
    if issubclass(type(answer), _STREAMS if work.can_await else Generator):
        return _stream(answer, places)
    given = values_of(answer, items, places)
    return Lost(places, given) if isinstance(given, Failure) else given


def settle(given: Give | Lost | Attempt) -> Attempt:
    """Settle what was taken apart; gives what failed as a whole."""
    if isinstance(given, Give):
        yield given
        return None
    if isinstance(given, Lost):
        return given
    return (yield from given)


_STREAMS = (Generator, AsyncGenerator)


def _raised(places: range, raised: Raised) -> Lost:
    # Else somebody stops the batch: a cancelled task, Ctrl-C in a caller's thread.
    has_raised = isinstance(raised.error, (Exception, SystemExit))
    return Lost(places, failure_of(raised), has_raised, not has_raised)


def _anext(generator: AsyncGenerator[Any, Any]) -> Any:
    """Ask for the next result, without the event loop's taking note of the generator.

    It would close it at its end, while the batch still runs.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return generator.__anext__()
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _stream(generator: Any, places: range) -> Attempt:
    """Settle each item as its result is yielded."""
    count = len(places)
    is_async = isinstance(generator, AsyncGenerator)
    step = Ask(_anext if is_async else next, (generator,), {})
    end: type[Exception] = StopAsyncIteration if is_async else StopIteration
    seen: set[int] = set()
    at = 0
    while True:
        answer = yield step
        if type(answer) is Raised:
            if at == count:
                if not isinstance(answer.error, end):
                    log.error("a batch raised %s after its last result", kind(answer.error))
                return None
            if isinstance(answer.error, end):
                early = bad_result(f"{count} results", f"a generator that ended after {at}")
                return Lost(places[at:], early)
            return _raised(places[at:], answer)
        if at == count:
            yield Ask(generator.aclose if is_async else generator.close, (), {})
            log.error("a batch yielded more than the %d results expected", count)
            return None
        here = places[at : at + 1]
        if issubclass(type(answer), BaseException):  # what `__class__` says is an item's affair
            yield Give(here, [element_failure(answer, seen)], False)
        else:
            yield Give(here, [answer], not issubclass(type(answer), Retry))
        answer = None
        at += 1
