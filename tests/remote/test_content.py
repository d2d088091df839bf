"""Results and exceptions from other processes keep their type and content."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from batchify import BatchAborted, batched
from batchify.codec import decode_error, encode_error

PATIENCE = 60.0  # seconds; only a hang takes that long


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1) as executor:
        yield executor


# ---- batch functions, which the other process finds by name ----


class RequiredKeywords(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__("of rows")
        self.code = code


class Slotted(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code = code


class LeavesOut(Exception):
    """An exception whose pickling loses some content."""

    def __reduce__(self) -> Any:
        return type(self), self.args


class Locked(Exception):
    """An exception whose state cannot be pickled."""

    def __init__(self, text: str, *, code: int) -> None:
        super().__init__(text)
        self.code = code
        self.lock = threading.Lock()
        self.nothing = None


class Unsendable(Exception):
    """An exception whose arguments cannot be pickled."""


def with_fields(error: Exception, **fields: Any) -> Exception:
    for name, value in fields.items():
        setattr(error, name, value)
    return error


def error_named(name: str) -> Exception:
    group = ExceptionGroup("group", [RequiredKeywords(code=3), ValueError(1)])
    errors: dict[str, Exception] = {
        "keywords": RequiredKeywords(code=3),
        "slots": Slotted(3),
        "leaves out": with_fields(LeavesOut("text"), code=3),
        "locked": Locked("text", code=3),
        "name error": with_fields(NameError("no"), name="x"),
        "syntax error": with_fields(SyntaxError("no"), filename="f.py", lineno=7),
        "os error": OSError(2, "no such file", "a", None, "b"),
        "group": group,
        "unsendable": Unsendable(threading.Lock()),
    }
    return errors[name]


def raising(items: list[str]) -> Any:
    raise error_named(items[0])


def giving(items: list[str]) -> list[Any]:
    return [error_named(item) for item in items]


def yielding(items: list[str]) -> Iterator[Any]:
    for item in items:
        yield error_named(item)


def mapped(items: list[str]) -> Any:
    return map(int, items)


def values(items: list[str]) -> Any:
    return {item: int(item) for item in items}.values()


CONTENT: dict[str, dict[str, Any]] = {
    "keywords": {"type": RequiredKeywords, "args": ("of rows",), "code": 3},
    "slots": {"type": Slotted, "args": ("slotted",), "code": 3},
    "leaves out": {"type": LeavesOut, "args": ("text",), "code": 3},
    "locked": {"type": Locked, "args": ("text",), "code": 3, "nothing": None},
    "name error": {"type": NameError, "args": ("no",), "name": "x"},
    "syntax error": {"type": SyntaxError, "filename": "f.py", "lineno": 7},
    "os error": {"type": FileNotFoundError, "filename": "a", "filename2": "b", "errno": 2},
}


@pytest.mark.parametrize("function", [raising, giving, yielding])
@pytest.mark.parametrize("name", CONTENT)
def test_an_exception_keeps_its_content(function: Any, name: str, pool: Any) -> None:
    error: Any = batched(function, executor=pool)(name).exception(PATIENCE)
    expected = CONTENT[name].copy()
    assert type(error) is expected.pop("type")
    assert {field: getattr(error, field) for field in expected} == expected
    notes = getattr(error, "__notes__", [])
    assert [note.splitlines()[0] for note in notes] == (
        ["in another process:"] if function is raising else []
    )


def test_the_members_of_a_group_keep_their_content(pool: Any) -> None:
    error: Any = batched(raising, executor=pool)("group").exception(PATIENCE)
    assert type(error) is ExceptionGroup
    first, second = error.exceptions
    assert (type(first), first.code) == (RequiredKeywords, 3)
    assert (type(second), second.args) == (ValueError, (1,))


def test_an_exception_that_cannot_be_sent_at_all_is_named(pool: Any) -> None:
    error = batched(raising, executor=pool, name="insert")("unsendable").exception(PATIENCE)
    assert type(error) is BatchAborted
    assert str(error).startswith("insert raised Unsendable, which cannot be sent")


@pytest.mark.parametrize("function", [mapped, values])
def test_iterators_are_read_where_they_are_made(function: Any, pool: Any) -> None:
    f = batched(function, executor=pool, size=2, linger=None)
    futures = [f("1"), f("2")]
    assert [future.result(PATIENCE) for future in futures] == [1, 2]


def test_an_iterator_that_raises_fails_the_rest(pool: Any) -> None:
    f = batched(mapped, executor=pool, size=3, linger=None)
    futures = [f("1"), f("x"), f("3")]
    assert futures[0].result(PATIENCE) == 1
    assert [type(one.exception(PATIENCE)) for one in futures[1:]] == [ValueError, ValueError]


@pytest.mark.parametrize("name", ["keywords", "name error", "syntax error", "os error"])
def test_errors_keep_their_content_through_a_broker(name: str) -> None:
    error = decode_error(encode_error(error_named(name)))
    expected = CONTENT[name].copy()
    assert type(error) is expected.pop("type")
    assert {field: getattr(error, field) for field in expected} == expected
