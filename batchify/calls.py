"""The public methods of a batched function: submit, map, flush, close, stats and the options.

`Calls` keeps no state. It finds the engine of the function or instance and calls that.
Callers are users; `decorator` derives the function and the bound method from `Calls`.
"""

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

# Functions that run a call instead of the queue (see `testing`). The last one is in force; if it
# returns None, the call goes to the queue.
overrides: list[Callable[..., BatchFuture[Any] | None]] = []


class Calls(Maps):
    """What can be called on a batched function, method, class method or static method."""

    def _scope(self) -> Scope:
        """Return the engines of this function, or of the method of this instance."""
        raise NotImplementedError

    def _scope_for_call(self) -> Scope:
        """Return `_scope()` for a call; raise ValueError if its executor cannot run it."""
        scope: Any = self._scope()
        if scope.options.executor is not None:
            scope.check_executor(self._plain())
        return scope  # type: ignore[no-any-return]

    def _plain(self) -> Callable[..., Any]:
        """Return the undecorated function; for a method, the bound one."""
        raise NotImplementedError

    def _submit(
        self,
        item: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        settings: CallSettings = DEFAULT_SETTINGS,
        **waiting: Any,
    ) -> BatchFuture[Any]:
        """Submit one item, with all checks. Simple calls take the fast path, `Batched.__call__`."""
        if overrides:
            future = overrides[-1](self, item, args, kwargs)
            try:
                if future is not None:
                    return future
            finally:
                del future  # a traceback refers to this frame (`f_back`): it would be a cycle
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
        """Submit the first of `chunks` as whole batches, as many as possible, one future each."""
        if overrides:
            return []
        scope: Any = self._scope()
        function = self._plain()
        if scope.options.executor is not None and not scope.executor_runner.has_checked(function):
            return []  # single calls check the function first
        engine: Any = scope.here()
        # Callers of a generator get each result as soon as it is yielded, not when the chunk ends.
        is_stream = inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        if engine.takes_more or is_stream or not engine.options.is_plain:
            return []
        futures: list[BatchFuture[Any]]
        futures = engine.submit_chunks(function, chunks, self._make_getter(scope))
        return futures

    def _dispatch_now(self) -> None:
        """Dispatch all queued items now, without waiting for them."""
        self._scope().here().push()

    def _make_getter(self, scope: Scope) -> Callable[[], Any]:
        """Return a function that returns the decorated object, for `BatchFailure.batched`."""
        raise NotImplementedError

    def submit(self, item: Any = MISSING, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Submit one item. This is the same as calling the function.

        If the queue is full, the call blocks in a thread; on an event loop it returns at once, and
        its future waits for capacity.

        Args:
            item: The item.
            args: Extra positional arguments, which the function gets unchanged. Only calls whose
                extra arguments are equal in value and type share a batch.
            kwargs: Extra keyword arguments, likewise.

        Returns:
            The future of this item. `result()` waits for it in a thread, `await` in a coroutine.

        Raises:
            Closed: The function was closed.
            Deadlock: The queue is full, and the caller is a batch or a callback of this function.
            ItemTooHeavy: The item alone weighs more than `max_weight`.
            TypeError: The item is missing, or an extra argument is not hashable.

        Example:
            >>> from batchify import batched
            >>> @batched
            ... def double(numbers: list[int]) -> list[int]:
            ...     return [2 * number for number in numbers]
            >>> double.submit(3).result()
            6
        """
        if item is MISSING:
            raise self._missing_item_error(".submit")
        return self._submit(item, args, kwargs)

    def submit_nowait(self, item: Any = MISSING, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Submit one item, but never wait for capacity.

        Arguments and return value are those of `submit`.

        Raises:
            QueueFull: `capacity` items are pending; nothing was submitted.

        Example:
            >>> from threading import Event
            >>> from batchify import QueueFull, batched
            >>> release = Event()
            >>> @batched(size=1, capacity=1)
            ... def save(rows: list[str]) -> None:
            ...     release.wait()
            >>> first = save("a")
            >>> try:
            ...     save.submit_nowait("b")
            ... except QueueFull as error:
            ...     print(error)
            save: the queue is full (capacity=1); raise capacity, or wait with options(timeout=...)
            >>> release.set()
        """
        if item is MISSING:
            raise self._missing_item_error(".submit_nowait")
        return self._submit(item, args, kwargs, wait=False)

    async def asubmit(self, item: Any = MISSING, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Wait for capacity without blocking the event loop, submit the item, return its future.

        Use it for back-pressure: a plain call on an event loop never waits. Arguments, return value
        and exceptions are those of `submit`.
        """
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
        """Return a view of this function that applies options to each of its calls.

        The view has `submit`, `submit_nowait`, `asubmit`, `map` and `amap`, and it can be called.
        It is cheap, has no queue of its own, and does not change the function.

        Args:
            timeout: Maximum time, in seconds or as a timedelta, that a call waits for capacity;
                then it fails with `QueueFull`. Default: None. None and inf mean no limit.
            deadline: Time from the call, in seconds or as a timedelta. An item that has not started
                by then fails with `DeadlineExceeded` at that moment, and frees its capacity.
                Default: None. None and inf mean no limit.
            priority: A number. Items with a higher priority are dispatched first, items with equal
                priority in order of submission. Default: 0. Low priorities do not starve: while the
                oldest item has waited for more than a second, every other batch is chosen by age.

        Returns:
            The view. It is immutable and may be kept.

        Raises:
            TypeError: An option is unknown or has a wrong type.
            ValueError: An option has a wrong value.

        Example:
            >>> from batchify import batched
            >>> @batched
            ... def double(numbers: list[int]) -> list[int]:
            ...     return [2 * number for number in numbers]
            >>> urgent = double.options(priority=1, deadline=5.0)
            >>> urgent(3).result()
            6
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
        """Call the undecorated function with a list, without a queue.

        Use it when you already have all items. Nothing is counted in `stats()`, and no option
        applies.

        Args:
            items: The list of items.
            args: Extra positional arguments of the function.
            kwargs: Extra keyword arguments of the function.

        Returns:
            What the function returns.

        Example:
            >>> from batchify import batched
            >>> @batched
            ... def double(numbers: list[int]) -> list[int]:
            ...     return [2 * number for number in numbers]
            >>> double.batch([1, 2, 3])
            [2, 4, 6]
        """
        return self._plain()(items, *args, **kwargs)

    def flush(self, timeout: float | None = None) -> None:
        """Dispatch all items accepted so far, and wait until they are done.

        Args:
            timeout: Maximum time to wait, in seconds or as a timedelta. Default: None. None and inf
                mean no limit.

        Raises:
            TimeoutError: Some items are not done in time. They stay queued or running.
            Deadlock: The wait could never end, for example inside a batch of this function.
        """
        if sys.is_finalizing():  # all items have ended by then
            return
        from .engine import control

        control.flush(self._scope(), time_limit("timeout", timeout))

    async def aflush(self, timeout: float | None = None) -> None:
        """Do the same as `flush` without blocking the event loop."""
        from .engine import control

        await control.aflush(self._scope(), time_limit("timeout", timeout))

    def close(self, timeout: float | None = None, *, cancel: bool = False) -> None:
        """Refuse new items, run the accepted ones, and stop the workers.

        It returns after the last observer was called and the last span has ended. If `executor` is
        a function, it also shuts down the executor that this function returned. Closing again does
        nothing, and any thread may close.

        Args:
            timeout: Maximum time to wait, in seconds or as a timedelta; then the remaining items
                fail with `Closed`. Default: None. None and inf mean no limit.
            cancel: If True, items that have not started fail with `Closed`, and only running
                batches finish. Default: False.

        Raises:
            TimeoutError: Not everything was done in time.
            Deadlock: The wait could never end, for example inside a batch of this function. The
                function stays open.
        """
        if sys.is_finalizing():  # a finalizer calls it; nothing is open any more
            return
        from .engine import control

        control.close(self._scope(), self._close_limit("close", timeout), cancel)

    async def aclose(self, timeout: float | None = None, *, cancel: bool = False) -> None:
        """Do the same as `close` without blocking the event loop."""
        from .engine import control

        await control.aclose(self._scope(), self._close_limit("aclose", timeout), cancel)

    def _close_limit(self, call: str, timeout: object) -> float | None:
        """Return the time limit in seconds. Frameworks may pass their app by mistake: say so."""
        try:
            return time_limit("timeout", timeout)
        except TypeError as error:
            close = f"{default_name(self._plain())}.{call}()"
            raise TypeError(
                f"{error}; if a framework calls shutdown hooks with its app, "
                f"register a function that takes the app and calls {close}"
            ) from None

    def start(self) -> None:
        """Open the function again after `close`. Before the first call this is not needed."""
        from .engine import control

        control.start(self._scope())

    def stats(self) -> Stats:
        """Return a snapshot of the counters; for a method, those of this instance.

        Returns:
            An immutable `Stats` with the number of items by outcome, the reasons why batches were
            dispatched, and their sizes and times.

        Example:
            >>> from batchify import batched
            >>> @batched(size=2, linger=None)
            ... def double(numbers: list[int]) -> list[int]:
            ...     return [2 * number for number in numbers]
            >>> list(double.map([1, 2, 3, 4]))
            [2, 4, 6, 8]
            >>> double.stats().succeeded, double.stats().sizes.mean
            (4, 2.0)
        """
        return self._scope().stats()

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer(event)` after each batch of this function.

        `batchify.observe` does the same for all functions; it says when and where observers run.

        Args:
            observer: A function that takes one `BatchEvent`.

        Returns:
            A function without arguments that ends the observation.

        Raises:
            TypeError: `observer` is not callable.
        """
        return self._observers().add(observer)

    def _observers(self) -> Observers:
        raise NotImplementedError

    def _configure(self, option: str, value: object) -> None:
        raise NotImplementedError

    @property
    def size(self) -> int:
        """Maximum number of items in a batch. A new value also applies to waiting items."""
        return self._options().size

    @size.setter
    def size(self, value: int) -> None:
        self._configure("size", value)

    @property
    def linger(self) -> float | None:
        """Maximum time in seconds that the oldest item waits for its batch to fill.

        A new value, in seconds, as a timedelta or None, also applies to waiting items.
        """
        return self._options().linger

    @linger.setter
    def linger(self, value: Any) -> None:
        self._configure("linger", value)

    @property
    def workers(self) -> int:
        """Maximum number of batches that run at the same time."""
        return self._options().workers

    @workers.setter
    def workers(self, value: int) -> None:
        self._configure("workers", value)

    @property
    def capacity(self) -> int | None:
        """Maximum number of pending items, queued or running; None means no limit."""
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

    # The wrapped method would show the repr of its instance, which may contain data.
    __str__ = __repr__
    __format__ = object.__format__

    @property
    def __code__(self) -> Any:
        """The code of the plain function without its coroutine flags: a call returns a future."""
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
    """An option that cannot be changed at run time. Reading it reads the function's attribute."""

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
