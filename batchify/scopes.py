"""Which engine belongs to whom: one for a function, one for each instance or class."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import ref

from .observe import EVERYWHERE, Observers
from .options import Live, Options

if TYPE_CHECKING:
    from .engine.control import Scope


class Scopes:
    """The engines of one decorated function, by the identity of whose method it is."""

    def __init__(self, options: Options, is_async: bool, seam: Any) -> None:
        # Imported here, not with the package (asyncio is slow to import), and not by the first
        # call, which may come from a finalizer in the middle of just this import.
        from .engine import (
            control,  # noqa: F401  # pyright: ignore[reportUnusedImport]
            lifecycle,
        )
        from .engine.loops import AsyncEngine
        from .engine.seam import THREADS
        from .engine.threads import ThreadEngine

        self.live = Live(options)  # of the scopes to come
        self.observers = Observers()
        self._elsewhere: Any = None
        if options.executor is not None:
            from .remote import Elsewhere

            self._elsewhere = Elsewhere(options.executor)
        self._kind: Any = AsyncEngine if is_async else ThreadEngine
        if options.broker is not None:
            from .engine.sending import SendingScope

            self._kind = SendingScope
        self._seam = THREADS if seam is None else seam
        self._lock = threading.RLock()
        self._own: Scope | None = None
        # By id: a weak reference to the owner, and its scope. Of an owner that cannot be
        # referenced weakly only the scope is known, weakly: what waits keeps it.
        self._by_owner: dict[int, tuple[Any, Any]] = {}
        lifecycle.register(self)

    def forked(self) -> None:
        """In the child of a fork: another thread may have held the lock."""
        self._lock = threading.RLock()
        if self._elsewhere is not None:
            self._elsewhere.forked()

    def of(self, owner: Any, function: Callable[..., Any]) -> Scope:
        """The scope of `owner`'s method; None stands for a function's own."""
        if owner is None:
            return self._own or self._new_own(function)
        found = self._find(owner)
        return self._new(owner, function) if found is None else found

    def _find(self, owner: Any) -> Scope | None:
        try:  # not `get`, which takes a lock of the dict without a GIL: see `Engine.forked`
            weak, scope = self._by_owner[id(owner)]
        except KeyError:
            return None
        if weak is None:
            scope = scope()
        elif weak() is not owner:
            return None
        found: Scope | None = scope
        return found

    def _new_own(self, function: Callable[..., Any]) -> Scope:
        with self._lock:
            if self._own is None:
                made = self._make(function, is_own=True)
                if self._own is None:  # else by a handler or a finalizer that called meanwhile
                    self._own = made
            return self._own

    def _new(self, owner: Any, function: Callable[..., Any]) -> Scope:
        with self._lock:
            found = self._find(owner)
            if found is not None:
                return found
            scope = self._make(function)
            found = self._find(owner)
            if found is not None:  # as in `_new_own`
                return found
            by_owner, key, weak = self._by_owner, id(owner), ref(self)

            def forget(gone: Any) -> None:
                scopes = weak()
                if scopes is not None:
                    scopes._forget(key, gone)

            try:
                by_owner[key] = (ref(owner, forget), scope)
            except TypeError:
                by_owner[key] = (None, ref(scope, forget))
            return scope

    def _forget(self, key: int, gone: Any) -> None:
        """`gone`, an owner or its scope, went away; its id may be that of another by now."""
        with self._lock:
            weak, scope = self._by_owner.get(key, (None, None))
            if gone is (scope if weak is None else weak):
                del self._by_owner[key]

    def _make(self, function: Callable[..., Any], is_own: bool = False) -> Scope:
        # Who sends items away says whose they are.
        whose = () if self.live.now.broker is None else (function,)
        scope: Any = self._kind(Live(self.live.now), takes_more(function), self._seam, *whose)
        scope.observers = (EVERYWHERE, self.observers, Observers())
        if self._elsewhere is not None:
            scope.elsewhere, scope.owns_elsewhere = self._elsewhere, is_own
        return scope  # type: ignore[no-any-return]

    def options_of(self, owner: Any) -> Options:
        """The options as they are now, for `owner`; makes no scope."""
        scope = self._own if owner is None else self._find(owner)
        return self.live.now if scope is None else scope.options

    def configure(self, option: str, value: object) -> None:
        """Change an option for every scope, those to come included."""
        for scope in self._known():
            scope.options.changed(option, value)  # all, or none
        self.live.change(option, value)
        for scope in self._known():  # also who was made meanwhile, with the old value
            scope.configure(option, value)

    def _known(self) -> list[Scope]:
        with self._lock:
            known = [self._own, *(scope for _, scope in self._by_owner.values())]
        # Without the lock: theirs are taken first elsewhere.
        found = [scope() if isinstance(scope, ref) else scope for scope in known]
        return [scope for scope in found if scope is not None]


def is_async(function: Any) -> bool:
    """Does a call give something to await?"""
    while True:
        if isinstance(function, (classmethod, staticmethod)):
            function = function.__func__
        elif isinstance(function, functools.partial):
            function = function.func
        else:
            break
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return True
    call = getattr(type(function), "__call__", None)
    return inspect.iscoroutinefunction(call) or inspect.isasyncgenfunction(call)


def takes_more(function: Callable[..., Any]) -> bool:
    """Can it be called with more than the list of items?"""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return True
    return len(parameters) != 1 or parameters[0].kind is inspect.Parameter.VAR_POSITIONAL
