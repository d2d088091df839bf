"""One call of the function, with a batch or a piece of it."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any, NamedTuple

from ..future import Failure
from ..logs import location_of
from ..options import kind
from ..retry import Retry
from .faults import bad_result, element_failure, failure_of
from .talk import Ask, Give, Raised, Work
from .values import counted, values_of

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


def taken_apart(
    answer: Any, work: Work, items: list[Any], places: range, name: str = ""
) -> Give | Lost | Attempt:
    """Take apart what was returned for the items at `places`; an iterator settles them itself.

    Args:
        answer: what was returned, or a `Raised`.
        work: the function.
        items: those of the batch.
        places: those that the answer is for.
        name: who answered, for messages; by default the function.
    """
    name = name or work.name
    if type(answer) is Raised:
        return _raised(places, answer, name, items)
    if issubclass(type(answer), _ITERATORS if work.can_await else Iterator):
        return _stream(answer, items, places, name)
    given = values_of(answer, items, places, name)
    return Lost(places, given) if isinstance(given, Failure) else given


def settle(given: Give | Lost | Attempt) -> Attempt:
    """Settle what was taken apart; gives what failed as a whole."""
    if isinstance(given, Give):
        yield given
        return None
    if isinstance(given, Lost):
        return given
    return (yield from given)


_ITERATORS = (Iterator, AsyncIterator)


def _raised(places: range, raised: Raised, name: str, items: list[Any]) -> Lost:
    has_raised = _has_raised(raised)
    return Lost(places, failure_of(raised, name, items), has_raised, not has_raised)


def _has_raised(raised: Raised) -> bool:
    """Return False if the batch was stopped: by a cancelled task, or by Ctrl-C in its thread."""
    return isinstance(raised.error, (Exception, SystemExit))


def _anext(iterator: AsyncIterator[Any]) -> Any:
    """Request the next result of an async generator without registering it with the loop.

    The loop would close it at shutdown, while the batch still runs.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return iterator.__anext__()
    finally:
        sys.set_asyncgen_hooks(*hooks)


def _stream(iterator: Any, items: list[Any], places: range, name: str) -> Attempt:
    """Settle each item as soon as its result is there."""
    count = len(places)
    is_async = not issubclass(type(iterator), Iterator)
    step = Ask(_anext if is_async else next, (iterator,), {})
    end: type[Exception] = StopAsyncIteration if is_async else StopIteration
    at = 0
    while True:
        answer = yield step
        if type(answer) is Raised:
            has_ended = isinstance(answer.error, end)
            if at == count:
                if not has_ended and _has_raised(answer):
                    log.error(
                        "%s: the batch raised %s after its last result (%s)",
                        name,
                        kind(answer.error),
                        location_of(answer.error),
                    )
                return None
            if has_ended:
                early = bad_result(
                    f"{name} yielded {counted(at, 'result')} for {counted(count, 'item')}; "
                    f"yield one result per item, in order"
                )
                return Lost(places[at:], early)
            return _raised(places[at:], answer, name, items)
        if at == count:
            if issubclass(type(iterator), (Generator, AsyncGenerator)):  # others may be in use
                yield Ask(iterator.aclose if is_async else iterator.close, (), {})
            log.error("%s yielded more than %s; yield one per item", name, counted(count, "result"))
            return None
        here = places[at : at + 1]
        if issubclass(type(answer), BaseException):  # what `__class__` says is an item's affair
            yield Give(here, [element_failure(answer, name)], False)
        else:
            yield Give(here, [answer], not issubclass(type(answer), Retry))
        answer = None
        at += 1
