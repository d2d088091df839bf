"""The decorator: which engine does a call go to?

One engine for a function, one for each instance of a method's class (by identity, weakly held),
one for each class of a classmethod. Everything a decorated object can do is in `Calls`; the
function and the bound method differ in where they find their scope.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import ref

import wrapt

from .options import Options, kind, seconds_or_none
from .scopes import Scopes, is_async
from .stats import Stats

if TYPE_CHECKING:
    from .engine.control import Scope
    from .future import BatchFuture


if TYPE_CHECKING:
    # wrapt's stubs keep the signature of what is wrapped; here it changes (see api.py).
    class _Wrapper:
        __wrapped__: Any
        __name__: str
        __qualname__: str
        _self_parent: Any
        _self_instance: Any
        _self_owner: Any
        _self_binding: str

        def __init__(self, *args: Any) -> None: ...

    _BoundWrapper = _Wrapper
else:
    _Wrapper, _BoundWrapper = wrapt.FunctionWrapper, wrapt.BoundFunctionWrapper

_COROUTINE_FLAGS = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR


class Calls:
    """What can be called on a batched function, method, class method or static method."""

    def _scope(self) -> Scope:
        """The engines of this function, or of this instance's method."""
        raise NotImplementedError

    def _plain(self) -> Callable[..., Any]:
        """The undecorated function, bound where it is a method."""
        raise NotImplementedError

    def _options(self) -> Options:
        raise NotImplementedError

    def _submit(
        self, item: Any, args: tuple[Any, ...], kwargs: dict[str, Any], **how: Any
    ) -> BatchFuture[Any]:
        """The general way in; the hot one is `Batched.__call__`."""
        scope = self._scope()
        engine = scope.here()
        if (args or kwargs) and not engine.is_grouped:
            engine.reject()
            raise TypeError(f"{self._options().name} takes one item and no extra arguments")
        route = engine.route(self._plain(), args, kwargs, self._gives_itself(scope))
        return engine.submit(route, item, **how)

    def _gives_itself(self, scope: Scope) -> Callable[[], Any]:
        """For `on_error`: the decorated object."""
        raise NotImplementedError

    def submit(self, item: Any, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Submit one item; the same as calling the function.

        Args:
            item: the item.
            args, kwargs: extra arguments; only calls with equal ones share a batch.

        Returns:
            The future of this item's result.

        Raises:
            Closed: after `close`.
            Deadlock: a batch or callback of this function would wait for its own full queue.
            TypeError: an extra argument cannot be hashed.
        """
        return self._submit(item, args, kwargs)

    def submit_nowait(self, item: Any, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Submit one item without ever waiting for room.

        Raises:
            QueueFull: `capacity` items are unresolved.
        """
        return self._submit(item, args, kwargs, wait=False)

    async def asubmit(self, item: Any, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Wait for room without blocking the loop, submit, and give the future."""
        return await self._asubmit(item, args, kwargs, None)

    async def _asubmit(
        self, item: Any, args: tuple[Any, ...], kwargs: dict[str, Any], timeout: float | None
    ) -> BatchFuture[Any]:
        from .engine.control import until_admitted

        return await until_admitted(
            lambda admitted: self._submit(item, args, kwargs, timeout=timeout, admitted=admitted)
        )

    def options(self, *, timeout: Any = None) -> CallOptions:
        """A light view of this function, with options for its calls.

        Args:
            timeout: the most seconds (or a timedelta) to wait for room; then `QueueFull`.
        """
        return CallOptions(self, seconds_or_none("timeout", timeout))

    def batch(self, items: list[Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call the undecorated function, with a list that you have already."""
        return self._plain()(items, *args, **kwargs)

    def flush(self, timeout: float | None = None) -> None:
        """Let everything accepted so far leave now, and wait until it is done.

        Args:
            timeout: the most seconds to wait.

        Raises:
            TimeoutError: it is not done in time; it goes on.
            Deadlock: waiting here could never end.
        """
        from .engine import control

        control.flush(self._scope(), seconds_or_none("timeout", timeout))

    async def aflush(self, timeout: float | None = None) -> None:
        """`flush` without blocking the loop."""
        from .engine import control

        await control.aflush(self._scope(), seconds_or_none("timeout", timeout))

    def close(self, timeout: float | None = None, *, cancel: bool = False) -> None:
        """Refuse new items, run what was accepted, end the workers.

        Args:
            timeout: the most seconds to wait; what is left then ends in `Closed`.
            cancel: end what has not started in `Closed` instead of running it.

        Raises:
            TimeoutError: not everything was done in time.
            Deadlock: waiting here could never end; nothing is closed then.
        """
        from .engine import control

        control.close(self._scope(), seconds_or_none("timeout", timeout), cancel)

    async def aclose(self, timeout: float | None = None, *, cancel: bool = False) -> None:
        """`close` without blocking the loop."""
        from .engine import control

        await control.aclose(self._scope(), seconds_or_none("timeout", timeout), cancel)

    def start(self) -> None:
        """Open again after a close. (The first call needs no start.)"""
        from .engine import control

        control.start(self._scope())

    def stats(self) -> Stats:
        """A snapshot of what was done so far."""
        return self._scope().stats()

    @property
    def size(self) -> int:
        """The most items in one batch."""
        return self._options().size

    @property
    def linger(self) -> float | None:
        """The longest time in seconds that the oldest item waits for company."""
        return self._options().linger

    @property
    def workers(self) -> int:
        """How many batches may run at the same time."""
        return self._options().workers

    @property
    def capacity(self) -> int | None:
        """The most unresolved items."""
        return self._options().capacity

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


class CallOptions:
    """A batched function, with options for the calls made through this view."""

    __slots__ = ("_calls", "_timeout")

    def __init__(self, calls: Calls, timeout: float | None) -> None:
        self._calls = calls
        self._timeout = timeout

    def __call__(self, item: Any, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Submit one item; see `Calls.submit`."""
        return self._calls._submit(item, args, kwargs, timeout=self._timeout)

    submit = __call__

    async def asubmit(self, item: Any, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Wait for room without blocking the loop, submit, and give the future."""
        return await self._calls._asubmit(item, args, kwargs, self._timeout)


def _refuse_default_call(*_: object) -> Any:
    raise AssertionError("wrapt's own call is never used: it costs more than the whole engine")


class BoundBatched(Calls, _BoundWrapper):
    """A batched function looked up on an instance or a class: made anew by each look-up."""

    def _parts(self) -> tuple[Any, Callable[..., Any]]:
        """The owner of the queue, None for a static method, and the function to run."""
        function = self.__wrapped__
        if self._self_binding in ("classmethod", "staticmethod"):
            return getattr(function, "__self__", None), function
        return self._self_instance, function

    def _scope(self) -> Scope:
        owner, function = self._parts()
        scopes: Scopes = self._self_parent._self_scopes
        return scopes.of(owner, function)

    def _plain(self) -> Callable[..., Any]:
        return self._parts()[1]

    def _options(self) -> Options:
        options: Options = self._self_parent._self_options
        return options

    @property
    def __func__(self) -> Any:
        return self._self_parent

    def _gives_itself(self, scope: Scope) -> Callable[[], Any]:
        # It keeps the scope as long as items wait, also of an owner without weak references.
        return lambda _scope=scope: self  # type: ignore[misc]

    def __call__(self, item: Any, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Submit one item; see `submit`."""
        if self._is_unbound() and isinstance(item, self._self_owner) and args:
            bound: BoundBatched = self._self_parent.__get__(item, type(item))
            return bound._submit(args[0], args[1:], kwargs)
        return self._submit(item, args, kwargs)

    def _is_unbound(self) -> bool:
        """Looked up on the class: `Cls.method(instance, item)` is to come."""
        return self._self_instance is None and self._self_binding not in (
            "classmethod",
            "staticmethod",
        )

    def __reduce__(self) -> Any:
        owner = self._self_owner if self._self_instance is None else self._self_instance
        return getattr, (owner, self.__name__)

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return self.__reduce__()


class Batched(Calls, _Wrapper):
    """A batched function: called with one item, it gives a `BatchFuture`."""

    __bound_function_wrapper__ = BoundBatched

    def __init__(self, function: Any, options: Options, seam: Any = None) -> None:
        super().__init__(function, _refuse_default_call)
        self._self_options = options
        self._self_scopes = Scopes(options, is_async(function), seam)
        self._self_submit: Callable[[Any], BatchFuture[Any]] | None = None

    def __call__(self, item: Any, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Submit one item; see `submit`."""
        submit = self._self_submit
        if submit is None or args or kwargs:
            return self._call(item, args, kwargs)
        return submit(item)

    def _call(self, item: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BatchFuture[Any]:
        if args and self._is_under_classmethod(item):
            bound = self.__bound_function_wrapper__(
                self.__wrapped__.__get__(item, type(item)),
                item,
                _refuse_default_call,
                None,
                "classmethod",
                self,
                item,
            )
            return bound._submit(args[0], args[1:], kwargs)
        if self._self_submit is None:
            scope: Any = self._scope()
            if not scope.is_grouped:
                self._self_submit = scope.submitter(self._plain(), self._gives_itself(scope))
        return self._submit(item, args, kwargs)

    def _is_under_classmethod(self, owner: Any) -> bool:
        """`@classmethod` above `@batched`: from 3.13 on it binds nothing, but passes the class."""
        if not isinstance(owner, type):
            return False
        found = inspect.getattr_static(owner, self.__name__, None)
        return isinstance(found, classmethod) and found.__func__ is self

    def _scope(self) -> Scope:
        return self._self_scopes.of(None, self._plain())

    def _plain(self) -> Callable[..., Any]:
        function: Callable[..., Any] = self.__wrapped__
        return function

    def _options(self) -> Options:
        return self._self_options

    def _gives_itself(self, scope: Scope) -> Callable[[], Any]:
        return ref(self)

    def __reduce__(self) -> Any:
        return self.__qualname__  # pickled by name, as functions are

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return self.__reduce__()

    def __copy__(self) -> Batched:
        return self

    def __deepcopy__(self, memo: Any) -> Batched:
        return self


def check_function(function: Any) -> None:
    """Raise TypeError for what cannot be decorated."""
    if isinstance(function, type) or not (
        callable(function) or isinstance(function, (classmethod, staticmethod))
    ):
        raise TypeError(f"batched needs a function that takes a list, got {kind(function)}")


def default_name(function: Any) -> str:
    """How the function is called in thread names and messages."""
    while isinstance(function, functools.partial):
        function = function.func
    return str(getattr(function, "__qualname__", None) or type(function).__qualname__)
