"""From the results of a batch function to one outcome per item (contract 4)."""

from __future__ import annotations

import array
import asyncio
from collections import ChainMap, Counter, UserDict, UserList, defaultdict, deque
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import pytest

from batchify import BadResult, BatchAborted, MissingResult
from batchify.future import Failure
from batchify.outcome import BatchSpec, Settle, execute
from tests.core.driver import Array, Item, ZeroDimensional, all_of, gives, run

# ---- sequences ----


SEQUENCES = [
    [1, 2, 3],
    (1, 2, 3),
    array.array("i", [1, 2, 3]),
    deque([1, 2, 3]),
    range(1, 4),
    UserList([1, 2, 3]),
    Array([1, 2, 3]),
]


@pytest.mark.parametrize("sequence", SEQUENCES, ids=lambda value: type(value).__name__)
def test_a_sequence_gives_each_caller_the_element_in_its_place(sequence: Any) -> None:
    assert run(gives(sequence), ["a", "b", "c"]).values == [1, 2, 3]


def test_results_may_be_anything_also_what_is_false_or_compares_oddly() -> None:
    results = [None, 0, "", [], Array([1]), ValueError, NotImplemented]
    values = run(gives(results), list("abcdefg")).values
    assert all(value is result for value, result in zip(values, results, strict=True))


def test_results_may_be_of_classes_that_have_no_hash() -> None:
    class Meta(type):
        __hash__ = None  # type: ignore[assignment]

        def __eq__(cls, other: object) -> bool:
            return True

    class Odd(metaclass=Meta):
        pass

    results = [Odd(), Odd()]
    assert run(gives(results), [1, 2]).values[1] is results[1]


@pytest.mark.parametrize("sequence", SEQUENCES, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("count", [1, 2, 4, 100])
def test_a_wrong_number_is_a_bad_result_for_all_callers(sequence: Any, count: int) -> None:
    errors = run(gives(sequence), [Item()] * count).errors
    assert all_of(BadResult, errors)
    assert f"returned 3 results for {count} item" in str(errors[0])


def test_no_results_at_all_are_a_wrong_number() -> None:
    assert all_of(BadResult, run(gives([]), [1, 2]).errors)


def test_a_sequence_that_fails_on_the_way_is_a_bad_result() -> None:
    class Broken(UserList):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[Any]:
            yield 1
            raise LookupError("the connection is gone")

    errors = run(gives(Broken([1, 2])), [1, 2]).errors
    assert all_of(BadResult, errors)
    assert isinstance(errors[0].__cause__, LookupError)


# ---- unusable return values ----


async def coroutine() -> list[int]:
    return [1, 2]


NO_ANSWERS: list[tuple[str, Callable[[], Any]]] = [
    ("str", lambda: "ab"),
    ("bytes", lambda: b"ab"),
    ("bytearray", lambda: bytearray(b"ab")),
    ("memoryview", lambda: memoryview(b"ab")),
    ("set", lambda: {1, 2}),
    ("frozenset", lambda: frozenset({1, 2})),
    ("int", lambda: 2),
    ("bool", lambda: True),
    ("float", lambda: 2.0),
    ("object", object),
    ("type", lambda: list),
    ("ZeroDimensional", lambda: ZeroDimensional([])),
    ("ValueError", lambda: ValueError("hunter2")),
    ("Item", Item),
]


@pytest.mark.parametrize(("kind", "make"), NO_ANSWERS, ids=[kind for kind, _ in NO_ANSWERS])
def test_anything_else_is_a_bad_result_that_names_expected_and_got(kind: str, make: Any) -> None:
    errors = run(gives(make()), [Item("a"), Item("b")]).errors
    assert all_of(BadResult, errors)
    message = str(errors[0])
    assert f"returned {kind}" in message
    assert "return one result per item, in order" in message
    assert "hunter2" not in message


def test_a_coroutine_is_a_bad_result_and_never_left_unawaited() -> None:
    # The driver of this file would await it; one of threads cannot.
    talk = execute(BatchSpec(lambda _: None), [1])
    next(talk)
    give = talk.send(coroutine())
    assert isinstance(give, Settle)
    assert isinstance(give.values[0].error, BadResult)
    assert "coroutine" in str(give.values[0].error)


@pytest.mark.parametrize(("kind", "make"), NO_ANSWERS, ids=[kind for kind, _ in NO_ANSWERS])
def test_bad_results_never_show_items(kind: str, make: Any) -> None:
    items = [Item("a"), Item("b")]
    for answer in (make(), items * 2, dict.fromkeys(map(str, items)), (item for item in items[:1])):
        for outcome in run(gives(answer), items).outcomes:
            if isinstance(outcome, Failure):
                assert "hunter2" not in str(outcome.error)
                assert "hunter2" not in repr(outcome.error)


# ---- mappings ----


class GrowingDict(UserDict):  # type: ignore[type-arg]
    """Makes up a value for any key, and keeps it."""

    def __missing__(self, key: Any) -> Any:
        self[key] = "made up"
        return self[key]


@pytest.mark.parametrize(
    "mapping",
    [
        {"a": 1, "b": 2, "extra": 9},
        MappingProxyType({"b": 2, "a": 1}),
        ChainMap({"a": 1}, {"b": 2}),
        UserDict({"a": 1, "b": 2}),
        Counter({"a": 1, "b": 2}),
        defaultdict(int, {"a": 1, "b": 2}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_mapping_gives_each_caller_the_value_under_its_own_item(mapping: Any) -> None:
    assert run(gives(mapping), ["b", "a", "b"]).values == [2, 1, 2]


def test_where_a_mapping_has_nothing_it_is_a_missing_result() -> None:
    ran = run(gives({"a": 1, "none": None}), ["a", "hunter2", "none", "hunter2"])
    assert [ran.outcomes[0], ran.outcomes[2]] == [1, None]
    missing = [ran.outcomes[1].error, ran.outcomes[3].error]
    assert all_of(MissingResult, missing)
    assert isinstance(missing[0], KeyError)
    assert "hunter2" not in str(missing[0])


def test_a_default_dict_does_not_grow() -> None:
    grown = defaultdict(lambda: "made up", {"a": 1})
    ran = run(gives(grown), ["a", "b"])
    assert ran.outcomes[0] == 1
    assert isinstance(ran.outcomes[1].error, MissingResult)
    assert grown == {"a": 1}
    assert all_of(MissingResult, run(gives(Counter()), ["a", "b"]).errors)


def test_a_mapping_with_items_that_have_no_hash_is_a_bad_result() -> None:
    errors = run(gives({"a": 1}), ["a", ["hunter2"]]).errors
    assert all_of(BadResult, errors)
    assert "list" in str(errors[0])
    assert "hunter2" not in str(errors[0])


def test_exceptions_in_a_mapping_are_raised_for_their_callers() -> None:
    error = ValueError("b")
    ran = run(gives({"a": 1, "b": error}), ["a", "b", "b"])
    assert ran.outcomes[0] == 1
    assert all_of(ValueError, [ran.outcomes[1].error, ran.outcomes[2].error])


# ---- None ----


def test_none_gives_none_to_all_callers() -> None:
    assert run(gives(None), [1, 2, 3]).values == [None, None, None]


# ---- exception instances as elements ----


def test_an_exception_instance_is_raised_for_its_caller_alone() -> None:
    error = ValueError("b")
    ran = run(gives([1, error, 3]), list("abc"))
    assert (ran.outcomes[0], ran.outcomes[2]) == (1, 3)
    assert type(ran.outcomes[1].error) is ValueError
    assert ran.outcomes[1].error.args == ("b",)


def test_one_instance_given_to_several_callers_becomes_several() -> None:
    errors = run(gives([ValueError("same")] * 3), [1, 2, 3]).errors
    assert all_of(ValueError, errors)
    assert [error.args for error in errors] == [("same",)] * 3


def test_one_instance_given_in_several_batches_becomes_several() -> None:
    function = gives([ValueError("same")])
    errors = [run(function, [1]).errors[0] for _ in range(3)]
    assert all_of(ValueError, errors)


@pytest.mark.parametrize(
    ("element", "told"),
    [
        (KeyboardInterrupt(), BatchAborted),
        (SystemExit(3), BatchAborted),
        (GeneratorExit(), BatchAborted),
        (asyncio.CancelledError(), BatchAborted),
        (StopIteration(3), RuntimeError),
        (StopAsyncIteration(), RuntimeError),
    ],
    ids=lambda value: type(value).__name__,
)
def test_elements_that_no_future_can_carry(element: Any, told: type[Exception]) -> None:
    ran = run(gives([1, element, element]), list("abc"))
    assert ran.outcomes[0] == 1
    errors = [outcome.error for outcome in ran.outcomes[1:]]
    assert all_of(told, errors)
    assert all(type(error.__cause__) is type(element) for error in errors)
    assert all(error.__cause__.args == element.args for error in errors)
