"""Everything that can be called on a decorated object."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .observe import Observer, Observers
from .options import FIXED, default_name, full_name, time_limit
from .stats import Stats
from .terms import priority_of
from .view import DEFAULT_SETTINGS, MISSING, CallOptions, CallSettings, Maps

if TYPE_CHECKING:
    from .engine.control import Scope
    from .future import BatchFuture

_COROUTINE_FLAGS = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


# Where calls go instead of into a queue, the last counts: see `testing`. None: into the queue.
overrides: list[Callable[..., BatchFuture[Any] | None]] = []


class Calls(Maps):
    """What can be called on a batched function, method, class method or static method."""

    def _scope(self) -> Scope:
        """The engines of this function, or of this instance's method."""
        raise NotImplementedError

    def _scope_for_call(self) -> Scope:
        """`_scope`, for a call: refuses what its executor could not run."""
        scope: Any = self._scope()
        if scope.options.executor is not None:
            scope.check_executor(self._plain())
        return scope  # type: ignore[no-any-return]

    def _plain(self) -> Callable[..., Any]:
        """The undecorated function, bound where it is a method."""
        raise NotImplementedError

    def _submit(
        self,
        item: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        settings: CallSettings = DEFAULT_SETTINGS,
        **waiting: Any,
    ) -> BatchFuture[Any]:
        """The general way in; the hot one is `Batched.__call__`."""
        if overrides:
            future = overrides[-1](self, item, args, kwargs)
            try:
                if future is not None:
                    return future
            finally:
                del future  # a traceback reaches this frame by `f_back`: that would be a cycle
        scope = self._scope_for_call()
        engine = scope.here()
        try:
            route, terms = engine.way(
                self._plain(), item, args, kwargs, self._make_getter(scope),
                settings.priority, settings.deadline,
            )  # fmt: skip
            return engine.submit(route, item, terms, timeout=settings.timeout, **waiting)
        except BaseException:
            engine.is_broken_off = True
            raise

    def _submit_chunks(self, chunks: list[list[Any]]) -> list[BatchFuture[Any]]:
        """Submit the first of `chunks` as batches of their own, as far as that is possible."""
        if overrides:
            return []
        scope: Any = self._scope()
        function = self._plain()
        if scope.options.executor is not None and not scope.executor_runner.has_checked(function):
            return []  # the calls one by one check it
        engine: Any = scope.here()
        # A generator's results are to come one by one, as they are yielded.
        is_stream = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        if engine.takes_more or is_stream or not engine.options.is_plain:
            return []
        futures: list[BatchFuture[Any]]
        futures = engine.submit_chunks(function, chunks, self._make_getter(scope))
        return futures

    def _dispatch_now(self) -> None:
        """Let what is there leave now, and do not wait for it."""
        self._scope().here().push()

    def _make_getter(self, scope: Scope) -> Callable[[], Any]:
        """For `on_error`: the decorated object."""
        raise NotImplementedError

    def submit(self, item: Any = MISSING, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Submit one item; the same as calling the function.

        Args:
            item: the item.
            args, kwargs: extra arguments; only calls whose extra arguments are equal in value and
                type share a batch.

        Returns:
            The future of this item's result.

        Raises:
            Closed: after `close`.
            Deadlock: a batch or callback of this function would wait for its own full queue.
            TypeError: there is no item, or an extra argument cannot be hashed.
        """
        if item is MISSING:
            raise self._missing_item_error(".submit")
        return self._submit(item, args, kwargs)

    def submit_nowait(self, item: Any = MISSING, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Submit one item without ever waiting for capacity.

        Raises:
            QueueFull: `capacity` items are pending.
        """
        if item is MISSING:
            raise self._missing_item_error(".submit_nowait")
        return self._submit(item, args, kwargs, wait=False)

    async def asubmit(self, item: Any = MISSING, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Wait for capacity without blocking the loop, submit, and return the future."""
        if item is MISSING:
            raise self._missing_item_error(".asubmit")
        return await self._asubmit(item, args, kwargs)

    async def _asubmit(
        self,
        item: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        settings: CallSettings = DEFAULT_SETTINGS,
    ) -> BatchFuture[Any]:
        from .engine.control import until_admitted

        return await until_admitted(
            lambda admitted: self._submit(item, args, kwargs, settings, admitted=admitted)
        )

    def _missing_item_error(self, call: str = "") -> TypeError:
        """Return the error for a call without an item."""
        name = default_name(self._plain())
        return TypeError(f"{name}{call}() takes the item as its first positional argument")

    def options(
        self, *, timeout: Any = None, deadline: Any = None, priority: float = 0, **unknown: Any
    ) -> CallOptions:
        """A light view of this function, with options for its calls.

        Args:
            timeout: the maximum time in seconds (or a timedelta) that a call waits for capacity;
                then `QueueFull`. None and inf mean no limit.
            deadline: seconds (or a timedelta) from the call. An item that has not started by
                then fails with `DeadlineExceeded`, on time, and frees its capacity. None and inf
                mean no limit.
            priority: a number; higher ones leave earlier, equal ones in the order of submission.
                Nothing starves: while the oldest item has waited for longer than a second, every
                other batch is taken by age.

        Raises:
            TypeError: an option has a wrong type, or is none of these.
            ValueError: an option has a wrong value.
        """
        if unknown:
            from .hints import unknown_call_option

            raise unknown_call_option(default_name(self._plain()), unknown)
        settings = CallSettings(
            time_limit("timeout", timeout),
            time_limit("deadline", deadline),
            priority_of(priority),
        )
        return CallOptions(self, settings)

    def batch(self, items: list[Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call the undecorated function, with a list that you have already."""
        return self._plain()(items, *args, **kwargs)

    def flush(self, timeout: float | None = None) -> None:
        """Let everything accepted so far leave now, and wait until it is done.

        Args:
            timeout: the maximum time in seconds (or a timedelta) to wait. None and inf mean no
                limit.

        Raises:
            TimeoutError: it is not done in time; it continues.
            Deadlock: waiting here could never end.
        """
        if sys.is_finalizing():  # all accepted items have ended
            return
        from .engine import control

        control.flush(self._scope(), time_limit("timeout", timeout))

    async def aflush(self, timeout: float | None = None) -> None:
        """`flush` without blocking the loop."""
        from .engine import control

        await control.aflush(self._scope(), time_limit("timeout", timeout))

    def close(self, timeout: float | None = None, *, cancel: bool = False) -> None:
        """Refuse new items, run the accepted ones, stop the workers.

        Returns after the last observer and span, and after the executor has ended that a function
        given as `executor` made. It never waits for its own thread or batch.

        Args:
            timeout: the maximum time in seconds (or a timedelta) to wait; then the remaining items
                fail with `Closed`. None and inf mean no limit.
            cancel: end what has not started in `Closed` instead of running it.

        Raises:
            TimeoutError: not everything was done in time.
            Deadlock: waiting here could never end; nothing is closed then.
        """
        if sys.is_finalizing():  # perhaps called by a finalizer; nothing is open any more
            return
        from .engine import control

        control.close(self._scope(), self._close_limit("close", timeout), cancel)

    async def aclose(self, timeout: float | None = None, *, cancel: bool = False) -> None:
        """`close` without blocking the loop."""
        from .engine import control

        await control.aclose(self._scope(), self._close_limit("aclose", timeout), cancel)

    def _close_limit(self, call: str, timeout: object) -> float | None:
        """Return the time limit of a close, which a framework may have called with its app."""
        try:
            return time_limit("timeout", timeout)
        except TypeError as error:
            close = f"{default_name(self._plain())}.{call}()"
            raise TypeError(
                f"{error}; if a framework calls shutdown hooks with its app, "
                f"register a function that takes the app and calls {close}"
            ) from None

    def start(self) -> None:
        """Open again after a close. (The first call needs no start.)"""
        from .engine import control

        control.start(self._scope())

    def stats(self) -> Stats:
        """A snapshot of what was done so far."""
        return self._scope().stats()

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Have `observer(event)` called with a `BatchEvent` after each batch of this function.

        Returns a function that ends it; see `batchify.observe`.
        """
        return self._observers().add(observer)

    def _observers(self) -> Observers:
        raise NotImplementedError

    def _configure(self, option: str, value: object) -> None:
        raise NotImplementedError

    @property
    def size(self) -> int:
        """The most items in one batch. A new value counts for waiting items, too."""
        return self._options().size

    @size.setter
    def size(self, value: int) -> None:
        self._configure("size", value)

    @property
    def linger(self) -> float | None:
        """The longest time in seconds that the oldest item waits for company."""
        return self._options().linger

    @linger.setter
    def linger(self, value: Any) -> None:
        self._configure("linger", value)

    @property
    def workers(self) -> int:
        """How many batches may run at the same time; with `linger=0`, more make smaller batches."""
        return self._options().workers

    @workers.setter
    def workers(self, value: int) -> None:
        self._configure("workers", value)

    @property
    def capacity(self) -> int | None:
        """The most unresolved items."""
        return self._options().capacity

    @capacity.setter
    def capacity(self, value: int | None) -> None:
        self._configure("capacity", value)

    def _repr_name(self) -> str:
        return f"function {full_name(self._plain())}"

    def __repr__(self) -> str:
        options = self._options()
        linger = options.linger if options.linger is None else f"{options.linger:g}"
        return f"<batched {self._repr_name()} (size={options.size}, linger={linger})>"

    # Not those of the wrapped method: they show the repr of its instance.
    __str__ = __repr__
    __format__ = object.__format__

    @property
    def __code__(self) -> Any:
        """The code of the plain function, no coroutine function any more: a call gives a future."""
        code = self._plain().__code__
        return code.replace(co_flags=code.co_flags & ~_COROUTINE_FLAGS)

    def __enter__(self) -> Any:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Any:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _FixedOption:
    """An option of the decorator that cannot be changed: reads go to the function, as ever."""

    def __init__(self, option: str) -> None:
        self.option = option

    def __get__(self, calls: Any, owner: Any = None) -> Any:
        return self if calls is None else getattr(calls.__wrapped__, self.option)

    def __set__(self, calls: Any, value: object) -> None:
        self.__delete__(calls)

    def __delete__(self, calls: Any) -> None:
        raise AttributeError(
            f"{self.option} of {calls._options().name} cannot be changed at run time: "
            "size, linger, workers and capacity can"
        )


for _option in FIXED:
    setattr(Calls, _option, _FixedOption(_option))
