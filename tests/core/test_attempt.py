"""One call of a batch function: its list, its extra arguments, and what it raises (contract 4)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from batchify import BatchAborted
from tests.core.driver import all_of, raises, run

# ---- raised exceptions ----


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        asyncio.CancelledError(),
        BaseExceptionGroup("both", [KeyboardInterrupt(), ValueError()]),
        type("OwnBase", (BaseException,), {})("own"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_base_exceptions_abort_the_batch(error: BaseException) -> None:
    errors = run(raises(error), [1, 2, 3]).errors
    assert all_of(BatchAborted, errors)
    assert all(isinstance(one, Exception) for one in errors)
    assert all(type(one.__cause__) is type(error) for one in errors)
    assert all(str(one.__cause__) == str(error) for one in errors)
    assert type(error).__name__ in str(errors[0])


@pytest.mark.parametrize("error", [StopIteration(3), StopAsyncIteration()], ids=repr)
def test_stop_iteration_comes_as_a_runtime_error_from_it(error: Exception) -> None:
    errors = run(raises(error), [1, 2]).errors
    assert all_of(RuntimeError, errors)
    assert all(type(one.__cause__) is type(error) for one in errors)
    assert all(one.__cause__.args == error.args for one in errors)


# ---- the function's list is its own ----


@pytest.mark.parametrize(
    "mutate",
    [
        lambda items: items.clear(),
        lambda items: items.append("more"),
        lambda items: items.reverse(),
        lambda items: items.__setitem__(slice(None), ["other"] * len(items)),
    ],
    ids=["clear", "append", "reverse", "overwrite"],
)
def test_a_function_may_change_its_list_at_will(mutate: Any) -> None:
    items = ["a", "b", "c"]

    def by_place(given: list[str]) -> list[str]:
        assert type(given) is list
        results = [item.upper() for item in given]
        mutate(given)
        return results

    def by_item(given: list[str]) -> dict[str, str]:
        results = {item: item.upper() for item in given}
        mutate(given)
        return results

    def failing(given: list[str]) -> Any:
        mutate(given)
        raise ValueError

    seen: list[list[str]] = []
    assert run(by_place, items).values == ["A", "B", "C"]
    assert run(by_item, items).values == ["A", "B", "C"]
    run(failing, items, on_error=lambda failure: seen.append(failure.items))
    assert seen == [["a", "b", "c"]]
    assert items == ["a", "b", "c"]


def test_extra_arguments_go_to_the_function_as_they_are() -> None:
    calls = []
    marker = object()

    def function(items: list[int], *args: Any, **kwargs: Any) -> None:
        calls.append((items, args, kwargs))

    run(function, [1, 2], marker, "x", table=marker)
    assert calls == [([1, 2], (marker, "x"), {"table": marker})]
