"""From the results that a batch function yields to one outcome per item (contract 4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from batchify import BadResult, BatchAborted
from batchify.outcome import BatchSpec, Settle, execute, to_raised
from tests.core.driver import GENERATORS, Raise, all_of, gives, next_or_none, run


@GENERATORS
def test_a_generator_settles_each_item_as_soon_as_it_yields(make: Any) -> None:
    ran = run(make([10, None, 30]), [1, 2, 3])
    assert ran.values == [10, None, 30]
    assert ran.gives == [1, 1, 1]


def test_a_result_is_delivered_before_the_generator_continues() -> None:
    events: list[Any] = []

    def function(items: list[int]) -> Iterator[int]:
        for item in items:
            events.append(("yield", item))
            yield item
        events.append("end")

    talk = execute(BatchSpec(function), [1, 2])
    answer: Any = None
    for request in iter(lambda: next_or_none(talk, answer), None):
        answer = None
        if isinstance(request, Settle):
            events.append(("give", request.values[0]))
        else:
            try:
                answer = request.function(*request.args)
            except StopIteration as error:
                answer = to_raised(error)
    assert events == [("yield", 1), ("give", 1), ("yield", 2), ("give", 2), "end"]


@GENERATORS
def test_a_generator_that_ends_early_is_a_bad_result_for_the_rest(make: Any) -> None:
    ran = run(make([10]), [1, 2, 3])
    assert ran.outcomes[0] == 10
    rest = [outcome.error for outcome in ran.outcomes[1:]]
    assert all_of(BadResult, rest)
    assert "yielded 1 result for 3 items" in str(rest[0])


@GENERATORS
def test_a_generator_that_raises_fails_the_rest_alone(make: Any) -> None:
    ran = run(make([10, Raise(ValueError("broken"))]), [1, 2, 3])
    assert ran.outcomes[0] == 10
    rest = [outcome.error for outcome in ran.outcomes[1:]]
    assert all_of(ValueError, rest)
    assert rest[0].args == ("broken",)


@GENERATORS
def test_a_generator_that_yields_too_many_is_closed_and_spoils_nothing(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ran = run(make([10, 20, "hunter2"]), [1, 2])
    assert ran.values == [10, 20]
    assert "yielded more than 2 results" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_generator_that_yields_too_many_can_clean_up() -> None:
    events: list[str] = []

    def function() -> Iterator[Any]:
        try:
            yield from (1, 2)
        finally:
            events.append("cleaned up")

    async def async_function() -> Any:
        try:
            yield 1
            yield 2
        finally:
            events.append("cleaned up, too")

    kept = function(), async_function()  # so the garbage collector does not end them
    assert run(gives(kept[0]), [0]).values == [1]
    assert run(gives(kept[1]), [0]).values == [1]
    assert events == ["cleaned up", "cleaned up, too"]


@GENERATORS
def test_a_generator_that_raises_after_its_last_result_spoils_nothing(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    ran = run(make([10, 20, Raise(ValueError("hunter2"))]), [1, 2])
    assert ran.values == [10, 20]
    assert "ValueError" in caplog.text
    assert "hunter2" not in caplog.text


@GENERATORS
def test_exceptions_that_a_generator_yields_are_elements(make: Any) -> None:
    error = ValueError("b")
    ran = run(make([1, error, error, 4]), list("abcd"))
    assert (ran.outcomes[0], ran.outcomes[3]) == (1, 4)
    assert all_of(ValueError, [ran.outcomes[1].error, ran.outcomes[2].error])


@GENERATORS
def test_a_generator_that_is_ended_from_outside_aborts_the_rest(make: Any) -> None:
    ran = run(make([10, Raise(KeyboardInterrupt())]), [1, 2, 3])
    assert ran.outcomes[0] == 10
    rest = [outcome.error for outcome in ran.outcomes[1:]]
    assert all_of(BatchAborted, rest)
    assert all(isinstance(error.__cause__, KeyboardInterrupt) for error in rest)
