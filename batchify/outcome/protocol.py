"""The messages between `execute` and its drivers.

No `repr` here shows an item, a result or an exception's text, because these belong to the callers.
All modules of `outcome` and both kinds of engines use them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from ..options import kind


@dataclass(slots=True, repr=False)
class Call:
    """A request to call a function.

    The driver calls it, awaits the returned object if it can, and sends back the value, or a
    `Raised`.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(slots=True, repr=False)
class Raised:
    """The answer to a `Call` that raised. `traceback` is the part of it that callers may see."""

    error: BaseException
    traceback: TracebackType | None


@dataclass(slots=True, repr=False)
class Settle:
    """A request to settle items.

    Attributes:
        positions: the positions of the items in the batch.
        values: one for each position: a result, a `Failure`, or a `Retry`.
        is_clean: True if all values are results.
        shared: the number of items that take their value from an equal item (`dedupe`).
    """

    positions: Sequence[int]
    values: Sequence[Any]
    is_clean: bool
    shared: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class BatchSpec:
    """How the batches of one group are run.

    Attributes:
        function: the batch function.
        args, kwargs: the extra arguments.
        on_error: called with each failed batch, before its callers get the error.
        batched: returns the decorated object, or None if it has been garbage-collected.
        isolate: True to bisect batches that fail.
        can_await: True if the driver awaits what the function returns.
        name: the name of the batched function, for messages and log lines.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    on_error: Callable[[BatchFailure], Any] | None = None
    batched: Callable[[], Any] | None = None
    isolate: bool = False
    can_await: bool = True
    name: str = "the batch function"


@dataclass(frozen=True, slots=True)
class BatchFailure:
    """A batch that failed, passed to `on_error` before its callers get the error.

    Attributes:
        exception: the exception that the function raised, or the `BadResult` or `BatchAborted`
            that its callers would get.
        items: the items of the batch, in a list that you may change.
        args: the positional extra arguments of the calls.
        kwargs: the extra keyword arguments of the calls.
        function: the undecorated function (bound, for methods); call it with a list to try again.
        batched: the decorated object, or None if it has been garbage-collected.
    """

    exception: Exception
    items: list[Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    function: Callable[..., Any]
    batched: Any

    def __repr__(self) -> str:
        return f"<BatchFailure of {len(self.items)} items: {kind(self.exception)}>"  # no content


# Returns the first error of the batch, even if `on_error` replaced it; None if there was none.
Execution = Generator[Call | Settle, Any, BaseException | None]
