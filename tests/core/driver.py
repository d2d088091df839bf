"""Run `execute`, which is pure: make the calls that it requests, and collect what it settles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import pytest

from batchify import BatchFailure
from batchify.future import Failure
from batchify.outcome import BatchSpec, Settle, execute, to_raised


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


def next_or_none(talk: Any, answer: Any) -> Any:
    try:
        return talk.send(answer)
    except StopIteration:
        return None


def names(traceback: TracebackType | None) -> list[str]:
    """Return the functions of a traceback, the outermost first."""
    found = []
    while traceback is not None:
        found.append(traceback.tb_frame.f_code.co_name)
        traceback = traceback.tb_next
    return found
