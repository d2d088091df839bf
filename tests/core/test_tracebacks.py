"""Tracebacks show the batch function, and neither the engine nor items (contract 4)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import pytest

import batchify
from batchify import BatchFailure
from batchify.future import Failure
from tests.core.driver import Item, Run, gives, names, raises, run

ENGINE = str(Path(batchify.__file__).parent)


def tracebacks(failure: Failure) -> list[TracebackType]:
    """Yield every traceback entry of the error, its causes and its groups."""
    entries: list[TracebackType] = []
    todo: list[BaseException] = [failure.error]
    seen: list[BaseException] = []
    heads = [failure.traceback]
    while todo:
        error = todo.pop()
        if error in seen:
            continue
        seen.append(error)
        heads.append(error.__traceback__)
        todo += [link for link in (error.__cause__, error.__context__) if link is not None]
        todo += getattr(error, "exceptions", ())
    for head in heads:
        entry = head
        while entry is not None:
            entries.append(entry)
            entry = entry.tb_next
    return entries


def holds_items(value: Any, depth: int = 4) -> bool:
    if isinstance(value, Item):
        return True
    if not depth:
        return False
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple, set, deque)):
        return any(holds_items(one, depth - 1) for one in value)
    return isinstance(value, FrameType) and holds_items(value.f_locals, depth)


def check_is_presentable(ran: Run) -> None:
    """Check that it shows no frame of the engine, and none that holds items."""
    for failure in ran.outcomes:
        if not isinstance(failure, Failure):
            continue
        for entry in tracebacks(failure):
            assert not entry.tb_frame.f_code.co_filename.startswith(ENGINE)
            assert not holds_items(entry.tb_frame.f_locals), entry.tb_frame


def explode(items: list[Item]) -> Any:
    first, *others = items
    everything = {"first": first, "others": [others]}
    return helper(first, everything)


def helper(item: Item, everything: Any) -> Any:
    raise LookupError(f"of {len(everything)}")


def explode_from(items: list[Item]) -> Any:
    try:
        return explode(items)
    except LookupError as error:
        raise ValueError("from it") from error


def explode_again(items: list[Item]) -> Any:
    try:
        return explode(items)
    except LookupError:
        return helper(items[0], items)


def explode_in_a_group(items: list[Item]) -> Any:
    errors = explode_each(items)
    raise ExceptionGroup("all", errors)


def explode_each(items: list[Item]) -> list[Any]:
    errors = []
    for item in items:
        try:
            helper(item, items)
        except LookupError as error:
            errors.append(error)
    return errors


def explode_each_one_by_one(items: list[Item]) -> Iterator[Any]:
    for item in items:
        try:
            helper(item, items)
        except LookupError as error:
            yield error


def explode_halfway(items: list[Item]) -> Iterator[Any]:
    yield 1
    explode(items)


def explode_in_a_generator(items: list[Item]) -> Any:
    return list(explode_halfway(items))


async def explode_async(items: list[Item]) -> Any:
    return explode(items)


async def explode_from_async(items: list[Item]) -> Any:
    try:
        await explode_async(items)
    except LookupError as error:
        raise ValueError("from it") from error


async def explode_halfway_async(items: list[Item]) -> Any:
    yield 1
    explode(items)


def exit_from(items: list[Item]) -> Any:
    try:
        return explode(items)
    except LookupError as error:
        raise SystemExit(3) from error


def stop_from(items: list[Item]) -> Any:
    del items[1:]
    raise StopIteration(len(items))


EXPLODING = [
    explode,
    explode_from,
    explode_again,
    explode_in_a_group,
    explode_each,
    explode_each_one_by_one,
    explode_halfway,
    explode_in_a_generator,
    explode_async,
    explode_from_async,
    explode_halfway_async,
    exit_from,
    stop_from,
]


@pytest.mark.parametrize("function", EXPLODING, ids=lambda function: function.__name__)
def test_no_traceback_shows_the_engine_or_holds_items(function: Any) -> None:
    check_is_presentable(run(function, [Item("a"), Item("b"), Item("c")]))


@pytest.mark.parametrize("function", EXPLODING, ids=lambda function: function.__name__)
def test_errors_and_results_of_the_handler_show_no_items(function: Any) -> None:
    def handler(failure: BatchFailure) -> Any:
        return function(failure.items)

    check_is_presentable(run(explode, [Item("a"), Item("b")], on_error=handler))
    check_is_presentable(run(function, [Item("a"), Item("b")], on_error=handler))


def test_the_traceback_starts_with_the_function() -> None:
    for failure in run(explode, [Item("a"), Item("b")]).outcomes:
        assert names(failure.traceback) == ["explode", "helper"]
        assert names(failure.error.__traceback__) == ["explode", "helper"]


@pytest.mark.parametrize("function", [explode_halfway, explode_halfway_async])
def test_the_traceback_starts_with_the_generator(function: Any) -> None:
    failure = run(function, [Item("a"), Item("b")]).outcomes[1]
    assert names(failure.traceback) == [function.__name__, "explode", "helper"]


@pytest.mark.parametrize("function", [explode_from, exit_from])
def test_the_cause_has_its_traceback_too(function: Any) -> None:
    error = run(function, [Item("a")]).errors[0]
    while not isinstance(error, LookupError):
        assert error.__cause__ is not None
        error = error.__cause__
    assert names(error.__traceback__) == [function.__name__, "explode", "helper"]


def test_an_element_that_was_caught_keeps_its_traceback() -> None:
    for failure in run(explode_each, [Item("a"), Item("b")]).outcomes:
        assert names(failure.traceback) == ["explode_each", "helper"]


def thrown(failure: Failure) -> BaseException:
    """Return the error as a caller gets it."""
    try:
        failure.throw()
    except BaseException as error:
        return error


@pytest.mark.parametrize("function", [explode, explode_each, gives([ValueError(), ValueError()])])
def test_the_traceback_does_not_grow_when_it_is_raised_again(function: Any) -> None:
    failure = run(function, [Item("a"), Item("b")]).outcomes[0]
    first = names(thrown(failure).__traceback__)
    for _ in range(5):
        assert names(thrown(failure).__traceback__) == first


def test_the_traceback_does_not_grow_when_a_function_raises_one_object_always() -> None:
    function = raises(ValueError("module level"))
    for _ in range(5):
        for failure in run(function, [1, 2]).outcomes:
            assert names(failure.traceback) == ["function"]
            thrown(failure)


def test_the_traceback_does_not_grow_when_a_function_gives_one_object_always() -> None:
    function = gives([ValueError("module level")] * 2)
    for _ in range(5):
        for failure in run(function, [1, 2]).outcomes:
            assert names(failure.traceback) == []
            thrown(failure)


def test_no_caller_meets_the_frames_of_another_caller() -> None:
    function = gives([ValueError("module level")])

    def first_caller() -> None:
        thrown(run(function, [1]).outcomes[0])

    first_caller()
    for entry in tracebacks(run(function, [1]).outcomes[0]):
        assert entry.tb_frame.f_code.co_name not in ("first_caller", "thrown", "throw")
