"""`on_error`: what the handler receives, and what its return value does (contract 5)."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from batchify import BadResult, BatchAborted, BatchFailure, MissingResult
from batchify.outcome import BatchSpec, Settle, execute, to_raised
from tests.core.driver import (
    GENERATORS,
    Raise,
    all_of,
    generator,
    gives,
    names,
    next_or_none,
    raises,
    run,
)
from tests.core.error_types import Frozen


def test_the_handler_sees_the_failed_batch() -> None:
    seen: list[BatchFailure] = []
    decorated = object()

    def function(items: list[int], *args: Any, **kwargs: Any) -> Any:
        raise ValueError("broken")

    run(function, [1, 2], "arg", table="users", on_error=seen.append, batched=lambda: decorated)
    failure = seen[0]
    assert type(failure.exception) is ValueError
    assert failure.exception.args == ("broken",)
    assert names(failure.exception.__traceback__) == ["function"]
    assert failure.items == [1, 2]
    assert failure.args == ("arg",)
    assert failure.kwargs == {"table": "users"}
    assert failure.function is function
    assert failure.batched is decorated
    assert len(seen) == 1


def test_a_handler_that_gives_none_leaves_the_error_to_the_callers() -> None:
    errors = run(raises(ValueError("broken")), [1, 2], on_error=lambda _: None).errors
    assert all_of(ValueError, errors)


def test_the_callers_get_what_the_handler_returns() -> None:
    def second_try(failure: BatchFailure) -> Any:
        return [item * 10 for item in failure.items]

    assert run(raises(ValueError()), [1, 2], on_error=second_try).values == [10, 20]
    by_item = run(raises(ValueError()), [1, 2], on_error=lambda f: {i: -i for i in f.items})
    assert by_item.values == [-1, -2]
    one_by_one = run(raises(ValueError()), [1, 2], on_error=lambda f: (-i for i in f.items))
    assert one_by_one.values == [-1, -2]
    assert one_by_one.gives == [1, 1]
    one_each = run(raises(ValueError()), [1, 2], on_error=lambda _: [3, KeyError(4)])
    assert one_each.outcomes[0] == 3
    assert isinstance(one_each.outcomes[1].error, KeyError)


def test_a_handler_may_give_back_the_exception_itself() -> None:
    errors = run(
        raises(ValueError("broken")), [1, 2], on_error=lambda failure: [failure.exception] * 2
    ).errors
    assert all_of(ValueError, errors)


def test_an_async_handler_is_awaited() -> None:
    async def handler(failure: BatchFailure) -> Any:
        return [-item for item in failure.items]

    assert run(raises(ValueError()), [1, 2], on_error=handler).values == [-1, -2]


@pytest.mark.parametrize("given", [[], [1], [1, 2, 3], "ab", 2, {"a"}], ids=repr)
def test_a_wrong_answer_of_the_handler_is_a_bad_result(given: Any) -> None:
    assert all_of(BadResult, run(raises(ValueError()), [1, 2], on_error=gives(given)).errors)


def test_a_mapping_of_the_handler_may_lack_items() -> None:
    ran = run(raises(ValueError()), [1, 2], on_error=gives({2: "two"}))
    assert isinstance(ran.outcomes[0].error, MissingResult)
    assert ran.outcomes[1] == "two"


def test_a_generator_of_the_handler_that_ends_early_leaves_a_bad_result() -> None:
    ran = run(raises(ValueError()), [1, 2], on_error=generator([10]))
    assert ran.outcomes[0] == 10
    assert isinstance(ran.outcomes[1].error, BadResult)


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (raises(ValueError()), ValueError),
        (raises(SystemExit()), BatchAborted),
        (raises(StopIteration()), RuntimeError),
        (gives([1]), BadResult),
        (gives("ab"), BadResult),
    ],
)
def test_the_handler_sees_all_that_fails_a_whole_batch(function: Any, told: Any) -> None:
    seen: list[BatchFailure] = []
    run(function, [1, 2], on_error=seen.append)
    assert [type(failure.exception) for failure in seen] == [told]


@pytest.mark.parametrize("answer", [[ValueError(), 2], {1: ValueError()}, None, [1, 2]], ids=repr)
def test_the_handler_sees_no_elements(answer: Any) -> None:
    seen: list[BatchFailure] = []
    run(gives(answer), [1, 2], on_error=seen.append)
    assert seen == []


@GENERATORS
def test_of_a_generator_the_handler_sees_the_rest(make: Any) -> None:
    seen = []

    def handler(failure: BatchFailure) -> Any:
        seen.append(failure.items)
        return [-item for item in failure.items]

    assert run(make([10, Raise(ValueError())]), [1, 2, 3], on_error=handler).values == [10, -2, -3]
    assert run(make([10, 20]), [1, 2, 3], on_error=handler).values == [10, 20, -3]
    assert seen == [[2, 3], [3]]


def test_a_handler_that_changes_the_failure_changes_nothing_else() -> None:
    items, kwargs = [1, 2], {"table": "users"}

    def handler(failure: BatchFailure) -> None:
        failure.items.clear()
        failure.kwargs.clear()

    talk = execute(BatchSpec(raises(ValueError()), (), kwargs, handler), items)
    answer: Any = None
    while (request := next_or_none(talk, answer)) is not None:
        answer = None
        if not isinstance(request, Settle):
            try:
                answer = request.function(*request.args)
            except Exception as error:
                answer = to_raised(error)
    assert items == [1, 2]
    assert kwargs == {"table": "users"}  # the extra arguments of all further batches too


@pytest.mark.parametrize("own", [KeyError("hunter2"), SystemExit("hunter2"), StopIteration()])
def test_when_the_handler_raises_the_callers_get_the_batchs_error_with_a_note(
    own: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def handler(failure: BatchFailure) -> Any:
        raise own

    with caplog.at_level(logging.DEBUG, logger="batchify"):
        errors = run(raises(ValueError("broken")), [1, 2], on_error=handler).errors
    assert all_of(ValueError, errors)
    assert all(error.args == ("broken",) for error in errors)
    for error in errors:
        assert len(error.__notes__) == 1
        assert "on_error" in error.__notes__[0]
        assert type(own).__name__ in error.__notes__[0]
    assert len(caplog.records) == 1
    assert caplog.records[0].name == "batchify"
    assert type(own).__name__ in caplog.text
    assert "hunter2" not in caplog.text


def test_notes_do_not_pile_up_when_a_function_raises_one_object_always() -> None:
    function = raises(ValueError("module level"))

    def handler(failure: BatchFailure) -> Any:
        raise KeyError

    for _ in range(3):
        for error in run(function, [1, 2], on_error=handler).errors:
            assert len(error.__notes__) == 1


def test_a_handler_that_raises_cannot_note_it_on_an_exception_that_cannot_be_changed() -> None:
    def handler(failure: BatchFailure) -> Any:
        raise KeyError

    errors = run(raises(Frozen(3)), [1, 2], on_error=handler).errors
    assert all_of(Frozen, errors)
