"""From what a function returns or raises to one outcome per item (contract 4, 5).

`execute` is pure: a driver of a few lines makes the calls that it requests, and collects what it
settles.
"""

from __future__ import annotations

import array
import asyncio
import concurrent.futures
import itertools
import json
import logging
import math
import subprocess
from collections import ChainMap, Counter, UserDict, UserList, defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, MappingProxyType, TracebackType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import batchify
from batchify import BadResult, BatchAborted, BatchFailure, MissingResult
from batchify.future import Failure
from batchify.outcome import BatchSpec, Settle, execute, to_raised

ENGINE = str(Path(batchify.__file__).parent)

# ---- the driver ----


@dataclass
class Run:
    """One batch: the outcome of each item, in order, and the requests that led to it."""

    outcomes: list[Any]
    gives: list[int]  # how many items were settled by each step

    @property
    def values(self) -> list[Any]:
        """Return the results, if all outcomes are results."""
        assert not any(isinstance(outcome, Failure) for outcome in self.outcomes), self.outcomes
        return self.outcomes

    @property
    def errors(self) -> list[BaseException]:
        """Return the errors, if all outcomes are errors."""
        assert all(isinstance(outcome, Failure) for outcome in self.outcomes), self.outcomes
        return [failure.error for failure in self.outcomes]


PENDING = object()


def run(
    function: Callable[..., Any],
    items: list[Any],
    *args: Any,
    on_error: Callable[[BatchFailure], Any] | None = None,
    batched: Any = None,
    isolate: bool = False,
    **kwargs: Any,
) -> Run:
    """Drive one batch to its end, as a worker does; every item is settled exactly once."""
    ran = Run([PENDING] * len(items), [])
    talk = execute(BatchSpec(function, args, kwargs, on_error, batched, isolate), items)
    answer: Any = None
    while True:
        try:
            request = talk.send(answer)
        except StopIteration:
            break
        answer = None
        if isinstance(request, Settle):
            for place, value in zip(request.positions, request.values, strict=True):
                assert ran.outcomes[place] is PENDING
                ran.outcomes[place] = value
            ran.gives.append(len(request.values))
            failed = [value for value in request.values if isinstance(value, Failure)]
            assert not (request.is_clean and failed)
            continue
        try:
            answer = request.function(*request.args, **request.kwargs)
            if hasattr(answer, "__await__"):
                awaited = answer.__await__()
                try:
                    awaited.send(None)
                except StopIteration as stop:
                    answer = stop.value
        except BaseException as error:
            answer = to_raised(error)
    assert not any(outcome is PENDING for outcome in ran.outcomes)
    return ran


def gives(value: Any) -> Callable[[list[Any]], Any]:
    """Return a batch function that returns `value`."""
    return lambda _: value


def raises(error: BaseException | Callable[[], BaseException]) -> Callable[[list[Any]], Any]:
    """Return a batch function that raises `error`, or the error that it returns."""

    def function(items: list[Any]) -> Any:
        raise error if isinstance(error, BaseException) else error()

    return function


class Item:
    """An item whose content must not appear in messages, logs or tracebacks."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<hunter2 {self.name}>"


def all_of(kind: type[BaseException], errors: list[Any]) -> bool:
    """Return True if they all have this type and are separate objects."""
    return all(type(e) is kind for e in errors) and len({id(e) for e in errors}) == len(errors)


# ---- sequences ----


class Array:
    """Like numpy's: sized, ordered, no `Sequence`, no truth value, compares by element."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, place: int) -> Any:
        return self._values[place]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __eq__(self, other: object) -> Any:
        return Array([value == other for value in self._values])

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise ValueError("the truth value of an array is ambiguous")


class ZeroDimensional(Array):
    """An array without a length, such as `numpy.array(3)`."""

    def __len__(self) -> int:
        raise TypeError("len() of unsized object")

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("iteration over a 0-d array")


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


# ---- generators ----


def generator(steps: list[Any]) -> Callable[[list[Any]], Any]:
    """Return a batch function that yields the steps; an `Exception` in a `Raise` is raised."""

    def function(items: list[Any]) -> Iterator[Any]:
        for step in steps:
            if isinstance(step, Raise):
                raise step.error
            yield step

    return function


def async_generator(steps: list[Any]) -> Callable[[list[Any]], Any]:
    async def function(items: list[Any]) -> Any:
        for step in steps:
            if isinstance(step, Raise):
                raise step.error
            yield step

    return function


@dataclass
class Raise:
    error: BaseException


GENERATORS = pytest.mark.parametrize("make", [generator, async_generator])


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


def next_or_none(talk: Any, answer: Any) -> Any:
    try:
        return talk.send(answer)
    except StopIteration:
        return None


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


class Base(Exception):
    pass


class OwnSignature(Base):
    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


class KeywordsOnly(Base):
    def __init__(self, *, code: int) -> None:
        self.code = code


class OwnReduce(Base):
    def __init__(self, code: int, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail

    def __reduce__(self) -> Any:
        return type(self), (self.code, self.detail)


class OwnNew(Base):
    def __new__(cls, code: int, *, detail: str) -> OwnNew:
        new = super().__new__(cls, code)
        new.detail = detail
        return new

    def __init__(self, code: int, *, detail: str) -> None:
        super().__init__(code)

    detail: str


class Slotted(Base):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code = code


class PrivateSlot(Exception):
    __slots__ = ("__code", "__weakref__")

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.__code = code

    def __str__(self) -> str:
        return f"code {self.__code}"


class OwnProperty(Base):
    def __init__(self, code: int) -> None:
        super().__init__("read only")
        self.__dict__["code"] = code

    @property
    def code(self) -> Any:
        return self.__dict__["code"]


class OwnOSError(OSError):
    def __init__(self, path: str, *, attempt: int) -> None:
        super().__init__(13, "denied", path)
        self.attempt = attempt


class OwnGroup(ExceptionGroup):
    def __new__(cls, message: str, errors: list[Exception], code: int) -> OwnGroup:
        new = super().__new__(cls, message, errors)
        new.code = code
        return new

    def __init__(self, message: str, errors: list[Exception], code: int) -> None:
        super().__init__(message, errors)

    code: int


@dataclass
class Data(Base):
    code: int


@dataclass(frozen=True)
class Frozen(Base):
    code: int


def noted() -> Exception:
    error = ValueError("noted")
    error.add_note("while inserting")
    error.table = "users"  # type: ignore[attr-defined]
    return error


def chained() -> Exception:
    error = ValueError("chained")
    error.__cause__ = LookupError("cause")
    return error


def really(code: str) -> Exception:
    """Return the exception that evaluating `code` raises."""
    try:
        eval(code)
    except Exception as error:
        return error
    raise AssertionError


EXCEPTIONS: dict[str, Callable[[], Exception]] = {
    "ValueError": lambda: ValueError("wrong", 3),
    "no args": ValueError,
    "KeyError": lambda: KeyError("key"),
    "ZeroDivisionError": lambda: really("1 / 0"),
    "NameError": lambda: really("no_such_name"),
    "AttributeError": lambda: really("(1).no_such_attribute"),
    "OSError": lambda: OSError("text only"),
    "FileNotFoundError": lambda: OSError(2, "no such file", "users.db"),
    "two filenames": lambda: OSError(2, "no such file", "users.db", None, "users.bak"),
    "BlockingIOError": lambda: BlockingIOError(11, "would block", 7),
    "TimeoutError": lambda: TimeoutError("late"),
    "UnicodeDecodeError": lambda: really(r"b'\xff'.decode()"),
    "UnicodeEncodeError": lambda: really(r"'\u1234'.encode('ascii')"),
    "ImportError": lambda: ImportError("no", name="numpy", path="/lib"),
    "ModuleNotFoundError": lambda: really("__import__('no_such_module')"),
    "SyntaxError": lambda: really("compile('a b', 'file.py', 'exec')"),
    "ExceptionGroup": lambda: ExceptionGroup("both", [ValueError(1), KeyError(2)]),
    "own group": lambda: OwnGroup("both", [ValueError(1), KeyError(2)], code=3),
    "JSONDecodeError": lambda: really("json.loads('{')"),
    "CalledProcessError": lambda: subprocess.CalledProcessError(3, "ls", "out", "err"),
    "futures.CancelledError": concurrent.futures.CancelledError,
    "BatchifyError": lambda: MissingResult("of another function"),
    "notes and attributes": noted,
    "cause": chained,
    "own signature": lambda: OwnSignature(3, detail="of it"),
    "keywords only": lambda: KeywordsOnly(code=3),
    "own __reduce__": lambda: OwnReduce(3, "of it"),
    "own __new__": lambda: OwnNew(3, detail="of it"),
    "__slots__": lambda: Slotted(3),
    "private __slots__": lambda: PrivateSlot(3),
    "read-only property": lambda: OwnProperty(3),
    "own OSError": lambda: OwnOSError("users.db", attempt=2),
    "dataclass": lambda: Data(3),
    "frozen dataclass": lambda: Frozen(3),
}
assert json  # for `really`

# The fields that built-in exceptions have outside of `args` and `__dict__`.
ATTRIBUTES = (
    "errno strerror filename filename2 characters_written encoding object start end reason "
    "name path msg lineno offset text exceptions message value code"
).split()
# The suggestion of a NameError or AttributeError, which may be made of a neighbour's item.
MAY_LACK = {NameError: {"name"}, AttributeError: {"name"}}


def content(error: BaseException) -> dict[str, Any]:
    """Return everything that can be seen of an exception."""
    kept = [name for name in ATTRIBUTES if name not in MAY_LACK.get(type(error), ())]
    return {
        "type": type(error),
        "args": error.args,
        "str": str(error),
        "cause": error.__cause__,
        "context": error.__context__,
        "suppress": error.__suppress_context__,
        "notes": list(getattr(error, "__notes__", [])),
        **{name: getattr(error, name) for name in kept if hasattr(error, name)},
        **{name: value for name, value in vars(error).items() if name != "__notes__"},
    }


@pytest.mark.parametrize("make", EXCEPTIONS.values(), ids=EXCEPTIONS)
def test_each_caller_gets_its_own_copy_of_the_error(make: Any) -> None:
    error = make()
    expected = content(error)
    errors = run(raises(error), [1, 2, 3]).errors
    assert all_of(type(error), errors)
    for one in errors:
        assert content(one) == expected
    errors[0].__dict__["mine"] = True
    if hasattr(errors[0], "__notes__"):
        errors[0].__notes__.append("mine")
    assert content(errors[1]) == expected


@pytest.mark.parametrize("make", EXCEPTIONS.values(), ids=EXCEPTIONS)
def test_each_caller_gets_an_own_copy_of_an_element(make: Any) -> None:
    error = make()
    expected = content(error)
    ran = run(gives(["neighbour", error, error]), [1, 2, 3])
    assert ran.outcomes[0] == "neighbour"
    errors = [outcome.error for outcome in ran.outcomes[1:]]
    assert all_of(type(error), errors)
    for one in errors:
        assert content(one) == expected


def test_an_exception_that_cannot_be_copied_goes_to_the_first_caller() -> None:
    class Uncopyable(Exception):
        def __new__(cls, *, secret: object = None) -> Uncopyable:
            if secret is not Uncopyable:
                raise TypeError("made by its library only")
            return super().__new__(cls)

        def __reduce_ex__(self, protocol: Any) -> Any:
            raise TypeError("cannot be copied")

        def __init__(self, *, secret: object = None) -> None:
            if secret is not Uncopyable:
                raise TypeError("made by its library only")

        def __setattr__(self, name: str, value: object) -> None:
            raise TypeError("cannot be changed")

    error = Uncopyable(secret=Uncopyable)
    for ran in (run(raises(error), [1, 2, 3]), run(gives([error] * 3), [1, 2, 3])):
        errors = ran.errors
        assert len({id(one) for one in errors}) == 3
        assert all(isinstance(one, Uncopyable) or one.__cause__ is error for one in errors)
        assert isinstance(errors[0], Uncopyable)


def test_one_instance_raised_in_several_batches_becomes_several() -> None:
    function = raises(ValueError("module level"))
    errors = [error for _ in range(3) for error in run(function, [1, 2]).errors]
    assert all_of(ValueError, errors)


def test_an_attribute_error_brings_no_neighbours_item_along() -> None:
    def function(items: list[Item]) -> Any:
        return [item.no_such_attribute for item in items]  # type: ignore[attr-defined]

    errors = run(function, [Item("a"), Item("b")]).errors
    assert all_of(AttributeError, errors)
    assert not any(isinstance(error.obj, Item) for error in errors)  # type: ignore[attr-defined]


# ---- tracebacks ----


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


def names(traceback: TracebackType | None) -> list[str]:
    """Return the functions of a traceback, the outermost first."""
    found = []
    while traceback is not None:
        found.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    return found


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


# ---- on_error ----


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


# ---- isolate ----


BAD = [type(f"Bad{item}", (Exception,), {}) for item in range(10)]


@pytest.mark.parametrize("are_alike", [True, False])
@pytest.mark.parametrize("count", range(1, 11))
def test_the_bound_of_isolate_holds_for_all_that_may_be_at_fault(
    count: int, are_alike: bool
) -> None:
    """k at fault of n: at most 2 k log2(n / k) + 2 k further calls, wherever they stand."""
    for size in range(1, count + 1):
        for bad in itertools.combinations(range(count), size):
            calls: list[list[int]] = []

            def function(items: list[int], bad=bad, calls=calls) -> list[int]:  # type: ignore[no-untyped-def]
                calls.append(items)
                for item in items:
                    if item in bad:
                        raise BAD[0 if are_alike else item]
                return items

            outcomes = run(function, list(range(count)), isolate=True).outcomes
            assert len(calls) - 1 <= 2 * size * math.log2(count / size) + 2 * size, bad
            failed = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Failure)]
            assert failed == list(bad) or (are_alike and len(calls) == 7)


# ---- anything at all ----

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
