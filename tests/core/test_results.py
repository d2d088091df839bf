"""What a batch function may return, and the error if it returns something else (contract 4).

Look-alikes of the classes of pandas, polars, NumPy and database drivers test the rules in every
run. Where the libraries are installed, the real classes are tested too.
"""

from __future__ import annotations

import asyncio
import io
import logging
import sqlite3
from collections import UserString
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from batchify import (
    BadResult,
    BatchAborted,
    MissingResult,
    Retry,
    RetryExhausted,
    batched,
)

PATIENCE = 60.0  # seconds; only a hang takes that long


def outcomes(function: Any, items: Any, **options: Any) -> list[Any]:
    """Return what the callers of one batch get: results and exceptions."""
    f = batched(function, size=len(items), linger=None, name="insert_users", **options)
    futures = [f(item) for item in items]
    f.flush(PATIENCE)
    found = [future.exception(PATIENCE) or future.result(PATIENCE) for future in futures]
    f.close(PATIENCE)
    return found


def results_of(make: Callable[[list[Any]], Any], items: Any = ("a", "b", "c")) -> list[Any]:
    """Return the `outcomes` of a `def`, after checking that an `async def` has the same."""

    async def afunction(items: list[Any]) -> Any:
        return make(items)

    found, afound = outcomes(make, items), outcomes(afunction, items)
    assert [repr(one) for one in found] == [repr(one) for one in afound]
    return found


def message_of(make: Callable[[list[Any]], Any], items: Any = ("a", "b")) -> str:
    """Return the message of the `BadResult` that all callers get."""
    found = results_of(make, items)
    assert all(type(one) is BadResult for one in found)
    assert len({id(one) for one in found}) == len(found)
    (message,) = {str(one) for one in found}
    return message


# ---- iterators ----


class Cursor:
    """A cursor of a database driver: an iterator that is no generator, and counts its rows."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows
        self.taken = 0
        self.is_closed = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self.taken == len(self.rows):
            raise StopIteration
        self.taken += 1
        return self.rows[self.taken - 1]

    def close(self) -> None:
        self.is_closed = True


ITERATORS: dict[str, Callable[[list[Any]], Any]] = {
    "map": lambda items: map(str.upper, items),
    "filter": lambda items: filter(None, ["", "A", "B", "C"]),
    "iter": lambda items: iter(["A", "B", "C"]),
    "reversed": lambda items: reversed(["C", "B", "A"]),
    "generator expression": lambda items: (item.upper() for item in items),
    "a cursor": lambda items: Cursor(["A", "B", "C"]),
    "dict.values()": lambda items: {item: item.upper() for item in items}.values(),
    "dict.keys()": lambda items: {item.upper(): item for item in items}.keys(),
}
each_iterator = pytest.mark.parametrize("make", ITERATORS.values(), ids=ITERATORS)


@each_iterator
def test_each_caller_gets_the_element_in_its_place(make: Callable[[list[Any]], Any]) -> None:
    assert results_of(make) == ["A", "B", "C"]


def test_pairs_are_elements() -> None:
    expected = [("a", 1), ("b", 2)]
    assert results_of(lambda items: zip(items, (1, 2), strict=True), "ab") == expected
    assert results_of(lambda items: {"a": 1, "b": 2}.items(), "ab") == expected


def test_a_file_gives_each_caller_a_line() -> None:
    file = io.StringIO("A\nB\n")
    assert outcomes(lambda items: file, "ab") == ["A\n", "B\n"]


def test_a_cursor_of_sqlite_gives_each_caller_a_row() -> None:
    connection = sqlite3.connect(":memory:", check_same_thread=False)

    def function(items: list[int]) -> Any:
        marks = ", ".join("(?)" for _ in items)
        return connection.execute(f"SELECT column1 * 2 FROM (VALUES {marks})", items)

    assert outcomes(function, [1, 2, 3]) == [(2,), (4,), (6,)]
    connection.close()


@pytest.mark.parametrize("count", [1, 2, 100])
def test_at_most_one_element_too_many_is_taken(count: int, caplog: Any) -> None:
    cursor = Cursor(list(range(2 + count)))
    assert outcomes(lambda items: cursor, "ab") == [0, 1]
    assert cursor.taken == 3
    assert not cursor.is_closed  # it may be in use
    assert "insert_users yielded more than 2 results; yield one per item" in caplog.text


def test_an_iterator_that_ends_early_leaves_a_bad_result_for_the_rest() -> None:
    first, second, third = results_of(lambda items: iter(["A"]))
    assert first == "A"
    assert type(second) is type(third) is BadResult
    assert second is not third
    assert str(second) == (
        "insert_users yielded 1 result for 3 items; yield one result per item, in order"
    )


def test_an_iterator_that_raises_fails_the_rest() -> None:
    def number(text: str) -> int:
        return int(text)

    first, second, third = results_of(lambda items: map(number, items), ["1", "x", "3"])
    assert first == 1
    assert [type(second), type(third)] == [ValueError] * 2


def test_elements_of_an_iterator_may_be_exceptions_and_retries() -> None:
    tried: list[str] = []

    def make(items: list[str]) -> Any:
        tried.extend(items)
        return iter([Retry() if tried.count(item) == 1 else ValueError(item) for item in items])

    errors = outcomes(make, "ab")
    assert [error.args for error in errors] == [("a",), ("b",)]
    assert sorted(tried) == ["a", "a", "b", "b"]


def test_on_error_may_return_an_iterator() -> None:
    def function(items: list[str]) -> Any:
        raise OSError

    assert outcomes(function, "ab", on_error=lambda failure: map(str.upper, failure.items)) == [
        "A",
        "B",
    ]


class AsyncRows:
    """An async iterator that is no generator."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.taken = 0

    def __aiter__(self) -> AsyncIterator[int]:
        return self

    async def __anext__(self) -> int:
        await asyncio.sleep(0)
        if self.taken == self.count:
            raise StopAsyncIteration
        self.taken += 1
        return self.taken


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_an_async_def_may_return_an_async_iterator(count: int) -> None:
    rows = AsyncRows(count)

    async def function(items: list[str]) -> Any:
        return rows

    found = outcomes(function, "ab")
    assert found[:1] == [1]
    assert found[1] == 2 if count > 1 else type(found[1]) is BadResult
    assert rows.taken <= 3


def test_a_def_that_returns_an_async_iterator_is_advised_to_be_an_async_def() -> None:
    (error, _) = outcomes(lambda items: AsyncRows(2), "ab")
    assert type(error) is BadResult
    assert "put @batched on an `async def`" in str(error)


# ---- series and tables ----


class Series:
    """As of pandas: by label for `[]`, by position when iterated, with `keys`."""

    ndim = 1

    def __init__(self, values: list[Any], index: list[Any]) -> None:
        self.values, self.index = values, index

    def __len__(self) -> int:
        return len(self.values)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def __getitem__(self, label: Any) -> Any:
        return self.values[self.index.index(label)]

    def keys(self) -> Any:
        return self.index


class Frame:
    """As of pandas and polars: sized, iterates over its columns."""

    columns = ("name", "age")
    ndim = 2

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Any]:
        return iter(self.columns)

    def __getitem__(self, name: str) -> Any:
        return [1, 2]


class PandasFrame(Frame):
    def keys(self) -> Any:
        return self.columns

    def to_dict(self, orient: str = "dict") -> Any: ...


class PolarsFrame(Frame):
    def to_dicts(self) -> Any: ...

    def to_dict(self) -> Any: ...


class ArrowTable(Frame):
    def to_pylist(self) -> Any: ...


def test_a_series_counts_by_position() -> None:
    assert results_of(lambda items: Series([10, 20], index=[1, 0]), [0, 1]) == [10, 20]
    assert results_of(lambda items: Series([10, 20], index=["a", "b"]), "ba") == [10, 20]


@pytest.mark.parametrize(
    ("table", "call"),
    [
        (PandasFrame, 'df.to_dict("records")'),
        (PolarsFrame, "df.to_dicts()"),
        (ArrowTable, "df.to_pylist()"),
    ],
)
def test_a_table_is_refused_with_the_call_that_gives_rows(table: Any, call: str) -> None:
    message = message_of(lambda items: table())
    assert message.startswith(f"insert_users returned {table.__name__} for 2 items; ")
    assert message.endswith(f"return a list with one element per row: {call}")


def test_a_table_without_such_a_call_is_refused() -> None:
    assert message_of(lambda items: Frame()).endswith("return a list with one element per row")


def test_a_series_and_a_frame_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    for index in ([1, 0], ["b", "a"], None):
        series = pandas.Series([10, 20], index=index)
        assert results_of(lambda items, series=series: series, "ab") == [10, 20]
    frame = pandas.DataFrame({"name": ["x", "y"], "age": [1, 2]})
    assert 'df.to_dict("records")' in message_of(lambda items: frame)
    assert results_of(lambda items: frame.to_dict("records"), "ab") == [
        {"name": "x", "age": 1}, {"name": "y", "age": 2},
    ]  # fmt: skip
    assert "returned 1 result for 2 items" in message_of(lambda items: pandas.Series([1]))


def test_a_series_and_a_frame_of_polars() -> None:
    polars = pytest.importorskip("polars")
    assert results_of(lambda items: polars.Series([10, 20]), "ab") == [10, 20]
    frame = polars.DataFrame({"name": ["x", "y"], "age": [1, 2]})
    assert "df.to_dicts()" in message_of(lambda items: frame)
    assert results_of(lambda items: frame.to_dicts(), "ab")[1] == {"name": "y", "age": 2}
    assert type(outcomes(lambda items: frame.lazy(), "ab")[0]) is BadResult


def test_arrays_of_numpy_count_by_their_first_axis() -> None:
    numpy = pytest.importorskip("numpy")
    assert results_of(lambda items: numpy.array([1, 2]), "ab") == [1, 2]
    rows = outcomes(lambda items: numpy.array([[1, 2], [3, 4]]), "ab")
    assert [list(row) for row in rows] == [[1, 2], [3, 4]]
    assert "returned 3 results for 2 items" in message_of(lambda items: numpy.zeros((3, 2)))
    assert "returned ndarray, which raised TypeError" in message_of(lambda items: numpy.array(3))
    for scalar in (numpy.float64(2.0), numpy.int64(2), numpy.str_("ab"), numpy.bytes_(b"ab")):
        assert message_of(lambda items, scalar=scalar: scalar)


# ---- refused return values and their messages ----

PER_ITEM = "return one result per item, in order, or a mapping {item: result}"


@pytest.mark.parametrize(
    "value",
    ["ab", UserString("ab"), b"ab", bytearray(b"ab"), memoryview(b"ab"), {1, 2}, 2, 2.0, object()],
    ids=lambda value: type(value).__name__,
)
def test_text_sets_and_numbers_are_refused(value: Any) -> None:
    message = message_of(lambda items: value)
    assert message.startswith(f"insert_users returned {type(value).__name__} for 2 items; ")
    assert message.endswith(PER_ITEM)


@pytest.mark.parametrize(
    ("results", "items", "expected"),
    [
        ([1], "ab", "insert_users returned 1 result for 2 items"),
        ([1, 2], "a", "insert_users returned 2 results for 1 item"),
        ((), "ab", "insert_users returned 0 results for 2 items"),
    ],
)
def test_a_wrong_number_names_both_numbers(results: Any, items: str, expected: str) -> None:
    assert message_of(lambda _: results, items) == f"{expected}; {PER_ITEM}"


def test_a_wrong_answer_of_on_error_names_on_error() -> None:
    def function(items: list[str]) -> Any:
        raise OSError

    for error in outcomes(function, "ab", on_error=lambda failure: [1]):
        assert str(error).startswith("on_error of insert_users returned 1 result for 2 items; ")


def test_a_coroutine_is_refused_with_the_right_place_for_the_decorator() -> None:
    async def result() -> None: ...

    (error, _) = outcomes(lambda items: result(), "ab")
    assert type(error) is BadResult
    assert "put @batched on the `async def` itself" in str(error)


def test_a_missing_result_names_the_types_of_items_and_keys() -> None:
    def message(returned: Any) -> str:
        _, second = results_of(lambda items: returned, [1, 2])
        assert type(second) is MissingResult
        return str(second)

    rest = "return every item as a key, or None for missing ones"
    start = "insert_users returned a mapping without this item (items are int"
    assert message({"1": 1, "2": 2}) == f"{start}, keys are str); {rest}"
    assert message({1: 1}) == f"{start}, keys are int); {rest}"
    assert message({"1": 1, b"2": 2}) == f"{start}, keys are bytes or str); {rest}"
    assert message({}) == f"{start}, it is empty); {rest}"


def test_a_mapping_for_items_without_a_hash_names_their_type() -> None:
    message = message_of(lambda items: {"a": 1}, [["x"], ["y"]])
    assert "items of type list cannot be looked up (TypeError)" in message


def test_an_abort_names_the_function_and_what_ended_it() -> None:
    def function(items: list[str]) -> Any:
        raise SystemExit(3)

    for error in outcomes(function, "ab"):
        assert type(error) is BatchAborted
        assert str(error).startswith("insert_users: SystemExit ended the batch; ")


def test_an_exhausted_retry_names_the_function_and_the_attempts() -> None:
    for error in outcomes(lambda items: [Retry(attempts=2)] * len(items), "ab"):
        assert type(error) is RetryExhausted
        assert str(error).startswith("insert_users: the item has no result after 2 attempts; ")


def test_stop_iteration_names_the_function() -> None:
    def function(items: list[str]) -> Any:
        raise StopIteration

    for error in outcomes(function, "ab"):
        assert type(error) is RuntimeError
        assert str(error).startswith("insert_users raised StopIteration; ")


# ---- log lines ----


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "batchify"]


def line_of(function: Callable[..., Any], offset: int) -> str:
    return f"test_results.py:{function.__code__.co_firstlineno + offset}"


def test_an_error_of_on_error_is_logged_with_its_place(caplog: pytest.LogCaptureFixture) -> None:
    def function(items: list[str]) -> Any:
        raise OSError

    def handler(failure: Any) -> Any:
        return failure.no_such_attribute

    outcomes(function, "ab", on_error=handler)
    assert lines_of(caplog) == [
        f"insert_users: on_error raised AttributeError ({line_of(handler, 1)})"
    ]


def test_an_error_after_the_last_result_is_logged_with_its_place(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def function(items: list[str]) -> Iterator[str]:
        yield from items
        raise OSError

    assert outcomes(function, "ab") == ["a", "b"]
    assert lines_of(caplog) == [
        f"insert_users: the batch raised OSError after its last result ({line_of(function, 2)})"
    ]


def test_the_end_of_a_loop_after_the_last_result_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The generator waits after all results were given; the loop's end cancels that."""
    caplog.set_level(logging.WARNING)

    async def main() -> None:
        has_given = asyncio.Event()

        @batched(size=2, linger=None)
        async def function(items: list[str]) -> AsyncIterator[str]:
            for item in items:
                yield item
            has_given.set()
            await asyncio.Event().wait()

        futures = [function(item) for item in "ab"]
        assert await asyncio.gather(*futures) == ["a", "b"]
        await has_given.wait()

    asyncio.run(main())
    assert [record.getMessage() for record in caplog.records] == []
