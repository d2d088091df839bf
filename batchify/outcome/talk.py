"""The words between `conduct` and its drivers. None shows its content: that is the callers'."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from ..options import kind


@dataclass(slots=True, repr=False)
class Ask:
    """The driver is to call this, await the answer where it may, and send back what came."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(slots=True, repr=False)
class Raised:
    """The answer to an `Ask` that raised. `traceback` is what callers may see of it."""

    error: BaseException
    traceback: TracebackType | None


@dataclass(slots=True, repr=False)
class Give:
    """The driver is to settle the items at these places of the batch with these values.

    A value is a result, a `Failure`, or a `Retry`; `is_clean`: all are results; `shared`: how
    many of the items shared the place of an equal one.
    """

    places: Sequence[int]
    values: Sequence[Any]
    is_clean: bool
    shared: int = 0


@dataclass(frozen=True, slots=True, repr=False)
class Work:
    """What a batch is run with.

    Attributes:
        function: the batch function.
        args, kwargs: the extra arguments.
        on_error: sees what failed, before the callers do.
        batched: gives the decorated object, None when it is gone.
        isolate: halve what fails.
        can_await: the driver awaits what it is asked to call.
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
    """A batch that failed, as `on_error` sees it before the callers do.

    Attributes:
        exception: what the function raised, or the `BadResult` or `BatchAborted` it came to.
        items: the items of the batch, a list of your own.
        args: the extra arguments of the calls, by position.
        kwargs: the extra arguments of the calls, by name.
        function: the plain function (bound, for methods), to call again with a list.
        batched: the decorated object; None when it is gone.
    """

    exception: Exception
    items: list[Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    function: Callable[..., Any]
    batched: Any

    def __repr__(self) -> str:
        return f"<BatchFailure of {len(self.items)} items: {kind(self.exception)}>"  # no content


# In the end: what the batch failed with, or a piece of it, whatever `on_error` made of it.
Talk = Generator[Ask | Give, Any, BaseException | None]
