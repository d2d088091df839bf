"""Run one batch: call the function, then settle every item.

Each item is settled exactly once, whatever the function, `on_error` or a user's `__eq__` does.
Callers are the engines and `testing.eager`.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from ..future import Failure
from .attempt import FailedPart, interpret, make_call, settle
from .bisect import bisect
from .exceptions import copies, failure_of, note_handler
from .protocol import BatchFailure, BatchSpec, Call, Execution, Raised, Settle


def execute(
    spec: BatchSpec, items: list[Any], dedupe_keys: Sequence[Any] | None = None
) -> Execution:
    """Call the function, and settle every item exactly once.

    Args:
        spec: the function and its options.
        items: the items of the batch, in order.
        dedupe_keys: one key for each item; items with equal keys are passed to the function once.
            None: all items are passed.

    Yields:
        A `Call`, to be answered with the returned value or a `Raised`, or a `Settle`.
    """
    if dedupe_keys is not None:
        return (yield from _execute_deduplicated(spec, items, dedupe_keys))
    answer = yield make_call(spec, items.copy())
    return (yield from execute_rest(spec, items, [answer]))


def execute_rest(spec: BatchSpec, items: list[Any], answers: list[Any]) -> Execution:
    """Run `execute` from the answer to the first call on; that answer is taken from `answers`."""
    failed = yield from settle(interpret(answers.pop(), spec, items, range(len(items))))
    if failed is None:
        return None
    parts = [failed]
    if spec.isolate:
        parts = yield from bisect(spec, items, failed)
    for part in parts:
        yield from _settle_failed(spec, items, part)
    return parts[0].failure.error if parts else None


def _settle_failed(
    spec: BatchSpec, items: list[Any], failed: FailedPart
) -> Generator[Call | Settle, Any, None]:
    """Settle a failed part with what `on_error` returns, or with its error."""
    rest: FailedPart | None = failed
    if spec.on_error is not None:
        failure = BatchFailure(
            exception=failed.failure.error,  # type: ignore[arg-type]
            items=items[failed.positions.start : failed.positions.stop],
            args=spec.args,
            kwargs=dict(spec.kwargs),
            function=spec.function,
            batched=None if spec.batched is None else spec.batched(),
        )
        handler = f"on_error of {spec.name}"
        answer = yield Call(spec.on_error, (failure,), {})
        if type(answer) is Raised:
            note_handler(failed.failure.error, answer.error, spec.name)
        elif answer is not None:
            rest = yield from settle(interpret(answer, spec, items, failed.positions, handler))
    if rest is not None:
        yield Settle(rest.positions, copies(rest.failure, len(rest.positions)), False)


# ---- dedupe ----


def _execute_deduplicated(
    spec: BatchSpec, items: list[Any], dedupe_keys: Sequence[Any]
) -> Execution:
    """Run a batch so that equal items are passed to the function once.

    The driver compares the keys: it holds no lock that a user's `__eq__` could need, and it reports
    an exception of `__eq__` as the failure of the batch.
    """
    groups = yield Call(_group_equal, (dedupe_keys,), {})
    if isinstance(groups, Raised):
        failure = failure_of(groups, spec.name, items)
        yield Settle(range(len(items)), copies(failure, len(items)), False)
        return failure.error
    if len(groups) == len(items):
        return (yield from execute(spec, items))
    execution = execute(spec, [items[positions[0]] for positions in groups])
    answer: Any = None
    while True:
        try:
            request = execution.send(answer)
        except StopIteration as end:
            error: BaseException | None = end.value
            return error
        answer = yield _expand(request, groups) if isinstance(request, Settle) else request


def _group_equal(dedupe_keys: Sequence[Any]) -> list[list[int]]:
    """Return the positions of equal keys, in order of first appearance."""
    groups: dict[Any, list[int]] = {}
    for position, key in enumerate(dedupe_keys):
        groups.setdefault(key, []).append(position)
    return list(groups.values())


def _expand(request: Settle, groups: list[list[int]]) -> Settle:
    """Return a request that gives the value of each group to all items of the group."""
    positions: list[int] = []
    values: list[Any] = []
    for group, value in zip(request.positions, request.values, strict=True):
        equal = groups[group]
        positions += equal
        if type(value) is Failure:
            values += copies(value, len(equal))
        else:
            values += [value] * len(equal)
    return Settle(positions, values, request.is_clean, len(positions) - len(request.positions))
