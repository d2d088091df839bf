"""Run one batch, from its items to the last outcome."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from ..future import Failure
from .attempt import Lost, asked, settle, taken_apart
from .faults import copies, failure_of, note_handler
from .isolate import isolate
from .talk import Ask, BatchFailure, Give, Raised, Talk, Work


def conduct(work: Work, items: list[Any], twins: Sequence[Any] | None = None) -> Talk:
    """Call the function, and settle every item exactly once.

    Yields `Ask`, to be answered with what the call gave or with `Raised`, and `Give`.

    Args:
        work: the function, and how it is run.
        items: those of the batch, in order.
        twins: for each item what makes it equal to another (`dedupe`); None: each is its own.
    """
    if twins is not None:
        return (yield from _once_each(work, items, twins))
    answer = yield asked(work, items.copy())
    return (yield from concluded(work, items, [answer]))


def concluded(work: Work, items: list[Any], answers: list[Any]) -> Talk:
    """`conduct` from the first answer on, which is taken out of `answers`."""
    lost = yield from settle(taken_apart(answers.pop(), work, items, range(len(items))))
    if lost is None:
        return None
    pieces = [lost]
    if work.isolate:
        pieces = yield from isolate(work, items, lost)
    for piece in pieces:
        yield from _handled(work, items, piece)
    return pieces[0].failure.error if pieces else None


def _handled(work: Work, items: list[Any], lost: Lost) -> Generator[Ask | Give, Any, None]:
    """Settle what failed: with what `on_error` makes of it, or with the error."""
    left: Lost | None = lost
    if work.on_error is not None:
        failed = BatchFailure(
            exception=lost.failure.error,  # type: ignore[arg-type]
            items=items[lost.places.start : lost.places.stop],
            args=work.args,
            kwargs=dict(work.kwargs),
            function=work.function,
            batched=None if work.batched is None else work.batched(),
        )
        handler = f"on_error of {work.name}"
        answer = yield Ask(work.on_error, (failed,), {})
        if type(answer) is Raised:
            note_handler(lost.failure.error, answer.error, work.name)
        elif answer is not None:
            left = yield from settle(taken_apart(answer, work, items, lost.places, handler))
    if left is not None:
        yield Give(left.places, copies(left.failure, len(left.places)), False)


# ---- dedupe ----


def _once_each(work: Work, items: list[Any], twins: Sequence[Any]) -> Talk:
    """Run a batch whose equal items reach the function once.

    The keys are compared here, where the users' `__eq__` meets no lock, and none of their
    errors is lost.
    """
    found = yield Ask(_places, (twins,), {})
    if isinstance(found, Raised):
        failure = failure_of(found, work.name, items)
        yield Give(range(len(items)), copies(failure, len(items)), False)
        return failure.error
    if len(found) == len(items):
        return (yield from conduct(work, items))
    talk = conduct(work, [items[places[0]] for places in found])
    answer: Any = None
    while True:
        try:
            request = talk.send(answer)
        except StopIteration as end:
            error: BaseException | None = end.value
            return error
        answer = yield _for_all(request, found) if isinstance(request, Give) else request


def _places(twins: Sequence[Any]) -> list[list[int]]:
    """The places of equal items, those that come first first."""
    found: dict[Any, list[int]] = {}
    for place, twin in enumerate(twins):
        found.setdefault(twin, []).append(place)
    return list(found.values())


def _for_all(give: Give, found: list[list[int]]) -> Give:
    """A value for each item out of a value for each kind of equal ones."""
    places: list[int] = []
    values: list[Any] = []
    for kind, value in zip(give.places, give.values, strict=True):
        equal = found[kind]
        places += equal
        if type(value) is Failure:
            values += copies(value, len(equal))
        else:
            values += [value] * len(equal)
    return Give(places, values, give.is_clean, len(places) - len(give.places))
