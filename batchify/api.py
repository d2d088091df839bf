"""`batched`, with the types that a checker sees.

The static classes below say in types what `decorator.py` does: wrapt cannot, as the decorated
function takes an item where the plain one takes a list. Functions come before methods and async
before sync, so that the first overload that fits is the right one. A class method reaches a
decorator as a function of `type[S]`.
"""

# The overloads do overlap (a method whose instance is a list is also a function): the order tells.
# mypy: disable-error-code="overload-overlap"

from __future__ import annotations

from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
)
from datetime import timedelta
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Protocol,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from .future import BatchFuture
from .options import DEFAULT_EXIT_TIMEOUT, DEFAULT_SIZE, UNSET, Options
from .outcome import BatchFailure
from .stats import Stats

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
P = ParamSpec("P")

if TYPE_CHECKING:

    class Results(Protocol[R_co]):
        """One result for each item, in order: a list, a tuple, an array."""

        def __len__(self) -> int: ...

        def __iter__(self) -> Iterator[R_co]: ...

    AnyResults = Results[R] | Iterator[R]
    Async = Coroutine[Any, Any, T]

    class CallOptions(Generic[T, P, R]):
        """A batched function, with options for the calls made through this view."""

        def __call__(self, item: T, /, *args: P.args, **kwargs: P.kwargs) -> BatchFuture[R]: ...

        def submit(self, item: T, /, *args: P.args, **kwargs: P.kwargs) -> BatchFuture[R]: ...

        async def asubmit(
            self, item: T, /, *args: P.args, **kwargs: P.kwargs
        ) -> BatchFuture[R]: ...

    class Batched(Generic[T, P, R]):
        """A batched function: called with one item, it gives a `BatchFuture`."""

        __name__: str
        __qualname__: str
        __wrapped__: Callable[..., Any]

        def __call__(self, item: T, /, *args: P.args, **kwargs: P.kwargs) -> BatchFuture[R]: ...

        def submit(self, item: T, /, *args: P.args, **kwargs: P.kwargs) -> BatchFuture[R]: ...

        def submit_nowait(
            self, item: T, /, *args: P.args, **kwargs: P.kwargs
        ) -> BatchFuture[R]: ...

        async def asubmit(
            self, item: T, /, *args: P.args, **kwargs: P.kwargs
        ) -> BatchFuture[R]: ...

        def options(self, *, timeout: float | timedelta | None = None) -> CallOptions[T, P, R]: ...

        def batch(self, items: list[T], /, *args: P.args, **kwargs: P.kwargs) -> Any: ...

        def flush(self, timeout: float | timedelta | None = None) -> None: ...

        async def aflush(self, timeout: float | timedelta | None = None) -> None: ...

        def close(
            self, timeout: float | timedelta | None = None, *, cancel: bool = False
        ) -> None: ...

        async def aclose(
            self, timeout: float | timedelta | None = None, *, cancel: bool = False
        ) -> None: ...

        def start(self) -> None: ...

        def stats(self) -> Stats: ...

        @property
        def size(self) -> int: ...

        @property
        def linger(self) -> float | None: ...

        @property
        def workers(self) -> int: ...

        @property
        def capacity(self) -> int | None: ...

        def __enter__(self) -> Batched[T, P, R]: ...

        def __exit__(self, *_: object) -> None: ...

        async def __aenter__(self) -> Batched[T, P, R]: ...

        async def __aexit__(self, *_: object) -> None: ...

    class BatchedMethod(Generic[T, P, R]):
        """A batched method: looked up on an instance, it is a `Batched` of its own."""

        __name__: str
        __wrapped__: Callable[..., Any]

        @overload
        def __get__(self, instance: None, owner: Any = None) -> BatchedMethod[T, P, R]: ...

        @overload
        def __get__(self, instance: object, owner: Any = None) -> Batched[T, P, R]: ...

        def __get__(self, instance: Any, owner: Any = None) -> Any: ...

        def __call__(
            self, instance: Any, item: T, /, *args: P.args, **kwargs: P.kwargs
        ) -> BatchFuture[R]: ...

    class BatchedClassMethod(Generic[T, P, R]):
        """A batched class method: it is a `Batched` of each class."""

        def __get__(self, instance: Any, owner: Any = None) -> Batched[T, P, R]: ...

    class Keywords(TypedDict, total=False):
        """The options of `batched`."""

        size: int
        linger: float | timedelta | None
        workers: int
        capacity: int | None
        on_error: Callable[[BatchFailure], Any] | None
        exit_timeout: float | timedelta
        name: str | None

    class Decorator(Protocol):
        """`batched`, and `batched(...)` that waits for the function."""

        @overload
        def __call__(
            self,
            func: Callable[Concatenate[list[T], P], Async[None]],
            /,
            **options: Unpack[Keywords],
        ) -> Batched[T, P, None]: ...

        @overload
        def __call__(
            self,
            func: Callable[Concatenate[list[T], P], Async[Mapping[Any, R]]],
            /,
            **options: Unpack[Keywords],
        ) -> Batched[T, P, R]: ...

        @overload
        def __call__(
            self,
            func: Callable[Concatenate[list[T], P], Async[AnyResults[R]]],
            /,
            **options: Unpack[Keywords],
        ) -> Batched[T, P, R]: ...

        @overload
        def __call__(
            self,
            func: Callable[Concatenate[list[T], P], AsyncIterator[R]],
            /,
            **options: Unpack[Keywords],
        ) -> Batched[T, P, R]: ...

        @overload
        def __call__(
            self, func: Callable[Concatenate[list[T], P], None], /, **options: Unpack[Keywords]
        ) -> Batched[T, P, None]: ...

        @overload
        def __call__(
            self,
            func: Callable[Concatenate[list[T], P], Mapping[Any, R]],
            /,
            **options: Unpack[Keywords],
        ) -> Batched[T, P, R]: ...

        @overload
        def __call__(
            self,
            func: Callable[Concatenate[list[T], P], AnyResults[R]],
            /,
            **options: Unpack[Keywords],
        ) -> Batched[T, P, R]: ...

        @overload
        def __call__(
            self,
            func: Callable[Concatenate[type[S], list[T], P], Async[None]],
            /,
            **options: Unpack[Keywords],
        ) -> BatchedClassMethod[T, P, None]: ...

        @overload
        def __call__(
            self,
            func: Callable[Concatenate[type[S], list[T], P], Async[AnyResults[R]]],
            /,
            **options: Unpack[Keywords],
        ) -> BatchedClassMethod[T, P, R]: ...

        @overload
        def __call__(
            self,
            func: Callable[Concatenate[type[S], list[T], P], None],
            /,
            **options: Unpack[Keywords],
        ) -> BatchedClassMethod[T, P, None]: ...

        @overload
        def __call__(
            self,
            func: Callable[Concatenate[type[S], list[T], P], AnyResults[R]],
            /,
            **options: Unpack[Keywords],
        ) -> BatchedClassMethod[T, P, R]: ...

        @overload
        def __call__(
            self,
            func: Callable[Concatenate[S, list[T], P], Async[None]],
            /,
            **options: Unpack[Keywords],
        ) -> BatchedMethod[T, P, None]: ...

        @overload
        def __call__(
            self,
            func: Callable[Concatenate[S, list[T], P], Async[Mapping[Any, R]]],
            /,
            **options: Unpack[Keywords],
        ) -> BatchedMethod[T, P, R]: ...

        @overload
        def __call__(
            self,
            func: Callable[Concatenate[S, list[T], P], Async[AnyResults[R]]],
            /,
            **options: Unpack[Keywords],
        ) -> BatchedMethod[T, P, R]: ...

        @overload
        def __call__(
            self,
            func: Callable[Concatenate[S, list[T], P], AsyncIterator[R]],
            /,
            **options: Unpack[Keywords],
        ) -> BatchedMethod[T, P, R]: ...

        @overload
        def __call__(
            self, func: Callable[Concatenate[S, list[T], P], None], /, **options: Unpack[Keywords]
        ) -> BatchedMethod[T, P, None]: ...

        @overload
        def __call__(
            self,
            func: Callable[Concatenate[S, list[T], P], Mapping[Any, R]],
            /,
            **options: Unpack[Keywords],
        ) -> BatchedMethod[T, P, R]: ...

        @overload
        def __call__(
            self,
            func: Callable[Concatenate[S, list[T], P], AnyResults[R]],
            /,
            **options: Unpack[Keywords],
        ) -> BatchedMethod[T, P, R]: ...

        @overload
        def __call__(self, **options: Unpack[Keywords]) -> Decorator: ...

        def __call__(self, *args: Any, **options: Any) -> Any: ...

    batched: Decorator

else:
    from .decorator import Batched

    def batched(
        func=None,
        /,
        *,
        size=DEFAULT_SIZE,
        linger=0.0,
        workers=1,
        capacity=UNSET,
        key=None,
        weight=None,
        max_weight=None,
        dedupe=False,
        isolate=False,
        on_error=None,
        caller_runs=False,
        exit_timeout=DEFAULT_EXIT_TIMEOUT,
        name=None,
    ):
        """Turn a function that takes a list into one that is called with one item.

        The calls of any number of threads and event loops are collected into batches, and each
        caller gets a `BatchFuture` with the result, or the error, of its own item.

            @batched(size=500, linger=0.01)
            def insert_users(users: list[User]) -> list[int]: ...

            insert_users(user).result()     # in a thread
            await insert_users(user)        # in a coroutine

        Args:
            func: the function, method, class method or static method; `def` runs in worker
                threads, `async def` on the caller's event loop. It takes a list of items, and
                gives back one result for each: a sequence in the same order, a mapping by item,
                a generator, or None.
            size: the most items in one batch.
            linger: the longest time, in seconds or as a timedelta, that the oldest item waits
                for its batch to fill. 0 never waits: what arrives while all workers are busy
                forms the next batch. None leaves only when full, flushed or closed.
            workers: how many batches may run at the same time (for `async def`: on each loop).
            capacity: the most unresolved items, queued and running (for `async def`: on each
                loop); by default 10 000, or `2 * size * workers` where that is more. None is
                without a bound. When full, a thread blocks, first come first served; on an
                event loop the future waits for its room.
            on_error: `on_error(failure)` sees each failed batch (a `BatchFailure`) before its
                callers do. It gives back None, or what the function might have given back.
            exit_timeout: the most seconds that the end of the process waits for this function's
                items.
            name: used in thread names and messages; by default the function's qualified name.

        Returns:
            The decorated function (a `Batched`), or a decorator when `func` is not given.

        Raises:
            TypeError: an option has a wrong type, or `func` is no function.
            ValueError: an option has a wrong value.
        """
        from dataclasses import replace

        from .decorator import check_function, default_name

        if func is not None:
            check_function(func)
        given = Options.checked(
            size=size,
            linger=linger,
            workers=workers,
            capacity=capacity,
            key=key,
            weight=weight,
            max_weight=max_weight,
            dedupe=dedupe,
            isolate=isolate,
            on_error=on_error,
            caller_runs=caller_runs,
            exit_timeout=exit_timeout,
            name=name,
            default_name="" if func is None else default_name(func),
        )
        if func is not None:
            return Batched(func, given)

        def decorator(func):
            check_function(func)
            return Batched(func, given if name else replace(given, name=default_name(func)))

        return decorator
