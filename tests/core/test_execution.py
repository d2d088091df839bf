"""Every item is settled once, with its own result, whatever the function returns (contract 4)."""

from __future__ import annotations

from collections import UserList, deque
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from batchify import BadResult, BatchAborted, MissingResult
from tests.core.driver import (
    Array,
    Raise,
    ZeroDimensional,
    all_of,
    async_generator,
    generator,
    gives,
    run,
)

ELEMENTS = st.one_of(st.integers(), st.none(), st.builds(ValueError, st.integers()))
CONTAINERS = st.sampled_from([list, tuple, deque, UserList, Array])


def as_expected(outcome: Any, element: Any) -> bool:
    if isinstance(element, BaseException):
        return type(outcome.error) is type(element) and outcome.error.args == element.args
    return outcome is element


@given(st.lists(ELEMENTS, min_size=1), CONTAINERS)
def test_every_caller_gets_its_own_element(elements: list[Any], container: Any) -> None:
    outcomes = run(gives(container(elements)), list(range(len(elements)))).outcomes
    assert all(map(as_expected, outcomes, elements))


@given(st.lists(ELEMENTS), CONTAINERS, st.integers(1, 20))
def test_no_caller_gets_another_callers_value(
    elements: list[Any], container: Any, count: int
) -> None:
    outcomes = run(gives(container(elements)), list(range(count))).outcomes
    if len(elements) != count:
        assert all_of(BadResult, [outcome.error for outcome in outcomes])


@given(
    st.lists(ELEMENTS),
    st.sampled_from(["ends", "raises", "exits"]),
    st.integers(1, 8),
    st.sampled_from([generator, async_generator]),
)
def test_a_generator_settles_each_item_and_its_error_settles_the_rest(
    elements: list[Any], end: str, count: int, make: Any
) -> None:
    last = {"ends": [], "raises": [Raise(LookupError())], "exits": [Raise(SystemExit())]}[end]
    told = {"ends": BadResult, "raises": LookupError, "exits": BatchAborted}[end]
    outcomes = run(make(elements + last), list(range(count))).outcomes
    served = min(count, len(elements))
    assert all(map(as_expected, outcomes[:served], elements[:served]))
    assert all_of(told, [outcome.error for outcome in outcomes[served:]])


@given(st.dictionaries(st.integers(0, 9), ELEMENTS), st.lists(st.integers(0, 9), min_size=1))
def test_a_mapping_gives_each_its_own_or_a_missing_result(
    mapping: dict[int, Any], items: list[int]
) -> None:
    for item, outcome in zip(items, run(gives(mapping), items).outcomes, strict=True):
        if item in mapping:
            assert as_expected(outcome, mapping[item])
        else:
            assert isinstance(outcome.error, MissingResult)


ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.integers(),
        st.text(),
        st.binary(),
        st.builds(object),
        st.builds(ValueError),
        st.builds(KeyboardInterrupt),
        st.builds(iter, st.lists(st.integers())),
        st.sets(st.integers()),
        st.builds(ZeroDimensional, st.just([])),
    ),
    lambda some: st.one_of(
        st.lists(some), st.dictionaries(st.integers(), some), st.builds(Array, st.lists(some))
    ),
    max_leaves=6,
)


@given(ANYTHING, ANYTHING, st.lists(st.integers(), min_size=1, max_size=4))
def test_whatever_comes_back_every_item_is_settled_once(
    answer: Any, second: Any, items: list[int]
) -> None:
    run(gives(answer), items)
    run(gives(answer), items, on_error=gives(second))
