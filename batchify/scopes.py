"""Find the engine of a call: one per function, per instance of a method, or per class.

An owner is found by identity, and only weakly referenced, so a queue does not keep it alive.
`decorator` calls this for each call that does not take the fast path.
"""

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
    """The engines of one decorated function, by the identity of their owner."""

    def __init__(self, options: Options, is_async: bool, seam: Any) -> None:
        # Not at the top, because asyncio is slow to import. And not in the first call, which may
        # come from a finalizer that interrupts this import.
        from .engine import (
            control,  # noqa: F401  # pyright: ignore[reportUnusedImport]
            lifecycle,
        )
        from .engine.loops import AsyncEngine
        from .engine.seam import THREADS
        from .engine.threads import ThreadEngine

        self.live = Live(options)  # the options of new scopes
        self._is_changed = False  # an option was changed at run time
        self.observers = Observers()
        self._executor_runner: Any = None
        if options.executor is not None:
            from .remote import ExecutorRunner

            self._executor_runner = ExecutorRunner(options.executor, options.name)
        self._engine_class: Any = AsyncEngine if is_async else ThreadEngine
        if options.broker is not None:
            from .engine.sending import SendingScope

            self._engine_class = SendingScope
        self._seam = THREADS if seam is None else seam
        self._lock = threading.RLock()
        self._original: Scopes | None = None  # replaced by this one, see `copy_for`
        self._own: Scope | None = None
        # By id of the owner: a weak reference to it, and its scope. If an owner cannot be weakly
        # referenced: None, and a weak reference to the scope, which its pending items keep alive.
        self._by_owner: dict[int, tuple[Any, Any]] = {}
        lifecycle.register(self)

    def forked(self) -> None:
        """Renew the lock in the child of a fork, because another thread may have held it."""
        self._lock = threading.RLock()
        if self._executor_runner is not None:
            self._executor_runner.forked()

    def __reduce__(self) -> Any:
        # cloudpickle treats a batched function as a plain one, and pickles all its parts.
        from .remote import unpicklable

        raise unpicklable(self.live.now.name)

    def copy_for(self, seam: Any) -> Scopes:
        """Return scopes without items that replace these on another clock, until `without`.

        They share the observers. They start with the current options and can change them
        independently. Functions that are closed here are closed there, too.
        """
        from .engine import lifecycle

        new = object.__new__(Scopes)
        vars(new).update(vars(self))
        new.live = Live(self.live.now)
        new._is_changed = False
        new._seam = seam
        new._lock = threading.RLock()
        new._original, new._own, new._by_owner = self, None, {}
        lifecycle.register(new)
        return new

    def without(self, seam: Any) -> Scopes:
        """Return these scopes, or those that they replace if they were made for `seam`."""
        if self._original is None:
            return self
        self._original = self._original.without(seam)
        return self._original if self._seam is seam else self

    def of(self, owner: Any, function: Callable[..., Any]) -> Scope:
        """Return the scope of the method of `owner`; None means the function itself."""
        if owner is None:
            return self._own or self._new_own(function)
        found = self._find(owner)
        return self._new(owner, function) if found is None else found

    def _find(self, owner: Any) -> Scope | None:
        try:  # without a GIL, `get` locks the dict: see `Engine.forked`
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
                made = self._make(function, None)
                if self._own is None:  # a signal handler or finalizer may have called in between
                    self._own = made
            return self._own

    def _new(self, owner: Any, function: Callable[..., Any]) -> Scope:
        with self._lock:
            found = self._find(owner)
            if found is not None:
                return found
            scope = self._make(function, owner)
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
        """Forget `gone`, an owner or scope that was freed. Its id may belong to another by now."""
        with self._lock:
            weak, scope = self._by_owner.get(key, (None, None))
            if gone is (scope if weak is None else weak):
                del self._by_owner[key]

    def _make(self, function: Callable[..., Any], owner: Any) -> Scope:
        original = self._original_scope(owner)
        live = Live(self.options_of(owner))
        scope: Any = (
            self._engine_class(live, takes_more(function), self._seam)
            if live.now.broker is None
            else self._engine_class(live, takes_more(function), function)
        )
        scope.observers = (EVERYWHERE, self.observers, Observers())
        if self._executor_runner is not None:
            scope.executor_runner = self._executor_runner
            scope.owns_executor_runner = owner is None or isinstance(owner, type)
        if original is not None:
            from .engine import control
            from .engine.looking import OPEN

            scope.observers = original.observers
            if original.state != OPEN:
                control.close(scope, None, cancel=True)
        return scope  # type: ignore[no-any-return]

    def _original_scope(self, owner: Any) -> Scope | None:
        """Return the scope that a new one of `owner` replaces; None if there is none."""
        original = self._original
        if original is None:
            return None
        known = original._own if owner is None else original._find(owner)
        return original._original_scope(owner) if known is None else known

    def options_of(self, owner: Any) -> Options:
        """Return the current options of `owner`, without creating a scope."""
        scope = self._own if owner is None else self._find(owner)
        if scope is None and not self._is_changed:
            scope = self._original_scope(owner)
        return self.live.now if scope is None else scope.options

    def configure(self, option: str, value: object) -> None:
        """Change an option of all existing and future scopes."""
        self._is_changed = True
        for scope in self._existing():
            scope.options.changed(option, value)  # check them all first
        self.live.change(option, value)
        for scope in self._existing():  # including those created in between with the old value
            scope.configure(option, value)

    def _existing(self) -> list[Scope]:
        with self._lock:
            known = [self._own, *(scope for _, scope in self._by_owner.values())]
        # Not under the lock: other code takes the lock of an engine before this one.
        found = [scope() if isinstance(scope, ref) else scope for scope in known]
        return [scope for scope in found if scope is not None]


def is_async(function: Any) -> bool:
    """Return True if a call of `function` returns an awaitable or an async generator."""
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
    """Return True if `function` takes more arguments than the list of items."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return True
    return len(parameters) != 1 or parameters[0].kind is inspect.Parameter.VAR_POSITIONAL
