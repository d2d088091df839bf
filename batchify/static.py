"""The types that a type checker sees; programs never import this module.

wrapt's own types cannot describe batching, because the decorated function takes one item where the
plain one takes a list. So these classes describe in types what `decorator` and `calls` do.
Functions come before methods, and async before sync, so that the first overload that matches is the
right one. A decorator sees a class method as a function of `type[S]`.
"""

# The overloads overlap (a method of a list looks like a function), so their order decides.
# mypy: disable-error-code="overload-overlap, empty-body"

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Hashable,
    Iterable,
    Iterator,
    Mapping,
)
from datetime import timedelta
from typing import (
    Any,
    Concatenate,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    SupportsIndex,
    TypeAlias,
    TypedDict,
    TypeVar,
    Unpack,
    overload,
)

from .broker import Broker
from .future import BatchFuture
from .observe import BatchEvent
from .outcome import BatchFailure
from .retry import Retry
from .stats import Stats

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
P = ParamSpec("P")


class Results(Protocol[R_co]):
    """A sequence with one result per item, in order: a list, a tuple, an array."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[R_co]: ...


# An element of the results. The caller gets an `R`; exceptions are raised, and with a `Retry` the
# item runs again. `Exception` is listed because pyright does not derive it from `BaseException`.
Element: TypeAlias = R | Exception | BaseException | Retry
AnyResults: TypeAlias = Results[Element[R]] | Iterator[Element[R]]
AnyAsyncResults: TypeAlias = AnyResults[R] | AsyncIterator[Element[R]]
Async = Coroutine[Any, Any, T]
Progress = bool | Callable[[Any], Iterable[Any]]


class Maps(Generic[T, R]):
    """`map` and `amap`, which a batched function and a view of it have in common."""

    @overload
    def map(
        self,
        items: Iterable[T],
        *,
        ordered: bool = True,
        window: int | None = None,
        return_exceptions: Literal[False] = False,
        progress: Progress = False,
    ) -> Iterator[R]: ...

    @overload
    def map(
        self,
        items: Iterable[T],
        *,
        ordered: bool = True,
        window: int | None = None,
        return_exceptions: bool,
        progress: Progress = False,
    ) -> Iterator[R | BaseException]: ...

    def map(self, items: Iterable[T], **how: Any) -> Any: ...

    @overload
    def amap(
        self,
        items: Iterable[T] | AsyncIterable[T],
        *,
        ordered: bool = True,
        window: int | None = None,
        return_exceptions: Literal[False] = False,
        progress: Progress = False,
    ) -> AsyncGenerator[R, None]: ...

    @overload
    def amap(
        self,
        items: Iterable[T] | AsyncIterable[T],
        *,
        ordered: bool = True,
        window: int | None = None,
        return_exceptions: bool,
        progress: Progress = False,
    ) -> AsyncGenerator[R | BaseException, None]: ...

    def amap(self, items: Any, **how: Any) -> Any: ...


class CallOptions(Maps[T, R], Generic[T, P, R]):
    """A view of a batched function that applies options to each call, from `Batched.options`."""

    def __call__(self, item: T, /, *args: P.args, **kwargs: P.kwargs) -> BatchFuture[R]: ...

    def submit(self, item: T, /, *args: P.args, **kwargs: P.kwargs) -> BatchFuture[R]: ...

    def submit_nowait(self, item: T, /, *args: P.args, **kwargs: P.kwargs) -> BatchFuture[R]: ...

    async def asubmit(self, item: T, /, *args: P.args, **kwargs: P.kwargs) -> BatchFuture[R]: ...


class Batched(Maps[T, R], Generic[T, P, R]):
    """A batched function: a call takes one item and returns a `BatchFuture`.

    It behaves the same for a function, a bound method, a class method and a static method. It is
    also a context manager, sync and async: `with f:` starts it and closes it at the end.
    """

    __name__: str
    __qualname__: str
    __wrapped__: Callable[..., Any]

    def __call__(self, item: T, /, *args: P.args, **kwargs: P.kwargs) -> BatchFuture[R]: ...

    def submit(self, item: T, /, *args: P.args, **kwargs: P.kwargs) -> BatchFuture[R]: ...

    def submit_nowait(self, item: T, /, *args: P.args, **kwargs: P.kwargs) -> BatchFuture[R]: ...

    async def asubmit(self, item: T, /, *args: P.args, **kwargs: P.kwargs) -> BatchFuture[R]: ...

    def options(
        self,
        *,
        timeout: float | timedelta | None = None,
        deadline: float | timedelta | None = None,
        priority: float = 0,
    ) -> CallOptions[T, P, R]: ...

    def batch(self, items: list[T], /, *args: P.args, **kwargs: P.kwargs) -> Any: ...

    def flush(self, timeout: float | timedelta | None = None) -> None: ...

    async def aflush(self, timeout: float | timedelta | None = None) -> None: ...

    def close(self, timeout: float | timedelta | None = None, *, cancel: bool = False) -> None: ...

    async def aclose(
        self, timeout: float | timedelta | None = None, *, cancel: bool = False
    ) -> None: ...

    def start(self) -> None: ...

    def stats(self) -> Stats: ...

    def observe(self, observer: Callable[[BatchEvent], Any]) -> Callable[[], None]: ...

    @property
    def size(self) -> int: ...

    @size.setter
    def size(self, value: SupportsIndex) -> None: ...

    @property
    def linger(self) -> float | None: ...

    @linger.setter
    def linger(self, value: float | timedelta | None) -> None: ...

    @property
    def workers(self) -> int: ...

    @workers.setter
    def workers(self, value: SupportsIndex) -> None: ...

    @property
    def capacity(self) -> int | None: ...

    @capacity.setter
    def capacity(self, value: SupportsIndex | None) -> None: ...

    def __enter__(self) -> Batched[T, P, R]: ...

    def __exit__(self, *_: object) -> None: ...

    async def __aenter__(self) -> Batched[T, P, R]: ...

    async def __aexit__(self, *_: object) -> None: ...


class BatchedMethod(Generic[T, P, R]):
    """A batched method; looked up on an instance, it is a `Batched`."""

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
    """A batched class method; looked up on a class, it is a `Batched`."""

    def __get__(self, instance: Any, owner: Any = None) -> Batched[T, P, R]: ...


class Submits(Protocol):
    """An executor: anything with the `submit` method of a `concurrent.futures.Executor`."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any: ...


class Keywords(TypedDict, total=False):
    """The options of `batched`."""

    size: SupportsIndex
    linger: float | timedelta | None
    workers: SupportsIndex
    capacity: SupportsIndex | None
    key: Callable[[Any], Hashable] | None
    weight: Callable[[Any], float] | None
    max_weight: float | None
    dedupe: bool | Callable[[Any], Hashable]
    isolate: bool
    on_error: Callable[[BatchFailure], Any] | None
    executor: Submits | Callable[[], Submits] | None
    broker: Broker | None
    exit_timeout: float | timedelta
    name: str | None


class Decorator(Protocol):
    """The type of `batched`, and of `batched(...)`, which is then called with the function."""

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
        func: Callable[Concatenate[list[T], P], Async[Mapping[Any, Element[R]]]],
        /,
        **options: Unpack[Keywords],
    ) -> Batched[T, P, R]: ...

    @overload
    def __call__(
        self,
        func: Callable[Concatenate[list[T], P], Async[AnyAsyncResults[R]]],
        /,
        **options: Unpack[Keywords],
    ) -> Batched[T, P, R]: ...

    @overload
    def __call__(
        self,
        func: Callable[Concatenate[list[T], P], AsyncIterator[Element[R]]],
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
        func: Callable[Concatenate[list[T], P], Mapping[Any, Element[R]]],
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
        func: Callable[Concatenate[type[S], list[T], P], Async[AnyAsyncResults[R]]],
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
        func: Callable[Concatenate[S, list[T], P], Async[Mapping[Any, Element[R]]]],
        /,
        **options: Unpack[Keywords],
    ) -> BatchedMethod[T, P, R]: ...

    @overload
    def __call__(
        self,
        func: Callable[Concatenate[S, list[T], P], Async[AnyAsyncResults[R]]],
        /,
        **options: Unpack[Keywords],
    ) -> BatchedMethod[T, P, R]: ...

    @overload
    def __call__(
        self,
        func: Callable[Concatenate[S, list[T], P], AsyncIterator[Element[R]]],
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
        func: Callable[Concatenate[S, list[T], P], Mapping[Any, Element[R]]],
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
