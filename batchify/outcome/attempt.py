"""Call the function once, with a batch or a part of one, and interpret what it returns.

An item that this module settles is never part of a `FailedPart`.
Callers are `execution` and `bisect`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from typing import Any, NamedTuple

from ..future import Failure
from ..logs import counted, location_of
from ..options import kind
from ..retry import Retry
from .exceptions import bad_result, element_failure, failure_of
from .protocol import BatchSpec, Call, Raised, Settle
from .values import values_of

log = logging.getLogger("batchify")


class FailedPart(NamedTuple):
    """A part of a batch that failed as a whole.

    Attributes:
        positions: the positions of its items in the batch.
        failure: what all of its callers get.
        has_raised: True if the function raised, presumably because of its items. False if it
            returned something unusable, or was stopped.
        is_stopped: True if the batch was stopped from outside, such as by a cancelled task.
    """

    positions: range
    failure: Failure
    has_raised: bool = False
    is_stopped: bool = False


Attempt = Generator[Call | Settle, Any, FailedPart | None]


def attempt(spec: BatchSpec, items: list[Any], positions: range) -> Attempt:
    """Call the function with the items at `positions`; return the part that failed, if any."""
    answer = yield make_call(spec, items[positions.start : positions.stop])
    return (yield from settle(interpret(answer, spec, items, positions)))


def make_call(spec: BatchSpec, items: list[Any]) -> Call:
    """Return the call of the function. `items` must be a copy, because the function may change it.

    Args:
        spec: the function and its extra arguments.
        items: the list to pass to it.
    """
    return Call(spec.function, (items, *spec.args), spec.kwargs)


def interpret(
    answer: Any, spec: BatchSpec, items: list[Any], positions: range, name: str = ""
) -> Settle | FailedPart | Attempt:
    """Return what a call that answered with `answer` means for its items.

    Args:
        answer: what the function returned, or a `Raised`.
        spec: the function and its options.
        items: the items of the batch.
        positions: the positions of the items that the function was called with.
        name: the function that answered, for messages; by default the batch function.

    Returns:
        What to settle, the part that failed, or, for an iterator, a generator that does both.
    """
    name = name or spec.name
    if type(answer) is Raised:
        return _raised(positions, answer, name, items)
    if issubclass(type(answer), _ITERATORS if spec.can_await else Iterator):
        return _stream(answer, items, positions, name)
    found = values_of(answer, items, positions, name)
    return FailedPart(positions, found) if isinstance(found, Failure) else found


def settle(interpreted: Settle | FailedPart | Attempt) -> Attempt:
    """Settle what `interpret` returned; return the part that failed, if any."""
    if isinstance(interpreted, Settle):
        yield interpreted
        return None
    if isinstance(interpreted, FailedPart):
        return interpreted
    return (yield from interpreted)


_ITERATORS = (Iterator, AsyncIterator)


def _raised(positions: range, raised: Raised, name: str, items: list[Any]) -> FailedPart:
    has_raised = _has_raised(raised)
    return FailedPart(positions, failure_of(raised, name, items), has_raised, not has_raised)


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


def _stream(iterator: Any, items: list[Any], positions: range, name: str) -> Attempt:
    """Settle each item as soon as the iterator yields its result."""
    count = len(positions)
    is_async = not issubclass(type(iterator), Iterator)
    step = Call(_anext if is_async else next, (iterator,), {})
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
                return FailedPart(positions[at:], early)
            return _raised(positions[at:], answer, name, items)
        if at == count:
            # Close generators only: the user may still read from another kind of iterator.
            if issubclass(type(iterator), (Generator, AsyncGenerator)):
                yield Call(iterator.aclose if is_async else iterator.close, (), {})
            log.error("%s yielded more than %s; yield one per item", name, counted(count, "result"))
            return None
        here = positions[at : at + 1]
        # By `type`, because a result may claim another type by its `__class__`.
        if issubclass(type(answer), BaseException):
            yield Settle(here, [element_failure(answer, name)], False)
        else:
            yield Settle(here, [answer], not issubclass(type(answer), Retry))
        answer = None
        at += 1
