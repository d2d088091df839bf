"""The decorated objects: the batched function, and the batched method of one instance.

A function has one engine, a method one per instance (by identity, weakly referenced), and a class
method one per class. The methods of both objects are in `Calls`; they differ only in how they find
their engine.
`api` and `testing` create them; `clock` moves them to another clock.
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import ref

import wrapt

from .calls import Calls, overrides
from .engine import lifecycle
from .finalizing import collected_error, refuse_when_finalizing
from .naming import inner
from .observe import Observers
from .options import Options, default_name, full_name, kind
from .scopes import Scopes, is_async
from .tracing import tracer_of
from .view import MISSING, CallOptions

if TYPE_CHECKING:
    from .engine.control import Scope
    from .future import BatchFuture


if TYPE_CHECKING:
    # wrapt's stubs keep the signature of the wrapped function; batching changes it (see `static`).
    class _Wrapper:
        __wrapped__: Any
        __name__: str
        __qualname__: str
        _self_parent: Any
        _self_instance: Any
        _self_owner: Any
        _self_binding: str

        def __init__(self, *args: Any) -> None: ...

        def __get__(self, instance: Any, owner: Any = None) -> Any: ...

        def __set_name__(self, owner: type, name: str) -> None: ...

    _BoundWrapper = _Wrapper
else:
    _Wrapper, _BoundWrapper = wrapt.FunctionWrapper, wrapt.BoundFunctionWrapper


_all: list[ref[Batched]] = []  # not a set: a proxy has the hash of its function, and equals it
_seams: list[Any] = []  # manual clocks that replace the real one; the last is in force


def _all_batched() -> list[Batched]:
    return [batched for weak in _all.copy() if (batched := weak()) is not None]


def reset_calls() -> None:
    """Make the next call of every batched function choose its path again."""
    for batched in _all_batched():
        batched._reset_call()


def _refuse_late_calls() -> None:
    """Refuse all calls once the interpreter finalizes: every call takes the checked path again."""
    overrides.append(refuse_when_finalizing)
    reset_calls()


lifecycle.after_last_look(_refuse_late_calls)


def use_seam(seam: Any) -> None:
    """Move all batched functions, present and future, to `seam`. They get new, empty queues."""
    _seams.append(seam)
    for batched in _all_batched():
        batched._move_to(batched._self_scopes.copy_for(seam))


def restore_seam(seam: Any) -> None:
    """Undo `use_seam(seam)`: all batched functions get their former queues back."""
    _seams.remove(seam)
    for batched in _all_batched():
        batched._move_to(batched._self_scopes.without(seam))


def _refuse_default_call(*_: object) -> Any:
    raise AssertionError("wrapt's own call is never used, because it is too slow")


class _BoundType(type(_BoundWrapper)):  # type: ignore[misc]
    """The type of `BoundBatched`. Calling it binds a function, like `types.MethodType`."""

    def __call__(cls, function: Batched, owner: Any) -> Any:
        """Return the bound method of `owner`. `weakref.WeakMethod` calls this."""
        if function._self_binding == "classmethod":
            return function.__get__(None, owner)
        return function.__get__(owner, type(owner))


class BoundBatched(Calls, _BoundWrapper, metaclass=_BoundType):
    """A batched function looked up on an instance or a class. Each look-up creates a new one."""

    def _parts(self) -> tuple[Any, Callable[..., Any]]:
        """Return the owner of the queue (None for a static method) and the function to run."""
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

    def _owner(self) -> Any:
        return self._parts()[0]

    def _options(self) -> Options:
        scopes: Scopes = self._self_parent._self_scopes
        return scopes.options_of(self._owner())

    def _configure(self, option: str, value: object) -> None:
        if self._owner() is None:
            self._self_parent._configure(option, value)
            return
        self._scope().configure(option, value)

    def _observers(self) -> Observers:
        scopes: Scopes = self._self_parent._self_scopes
        if self._owner() is None:
            return scopes.observers
        return self._scope().observers[-1]

    @property
    def __func__(self) -> Any:
        return self._self_parent

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        # cloudpickle treats a static method as a plain function, and would lose the batching.
        return {"_self_parent": self._self_parent}

    def _make_getter(self, scope: Scope) -> Callable[[], Any]:
        # It keeps the scope alive while items wait, even if the owner has no weak references.
        return lambda _scope=scope: self  # type: ignore[misc]

    def __call__(self, item: Any = MISSING, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Submit one item. This is the same as `submit`."""
        if item is MISSING:
            raise self._missing_item_error()
        if self._is_unbound() and isinstance(item, self._self_owner) and args:
            bound: BoundBatched = self._self_parent.__get__(item, type(item))
            return bound._submit(args[0], args[1:], kwargs)
        return self._submit(item, args, kwargs)

    def _is_unbound(self) -> bool:
        """Return True if it was looked up on the class: a call is `Cls.method(instance, item)`."""
        return self._self_instance is None and self._self_binding not in (
            "classmethod",
            "staticmethod",
        )

    def _repr_name(self) -> str:
        owner = self._owner()
        if owner is None:
            return super()._repr_name()
        # The repr of the instance may contain data.
        of = type.__repr__(owner) if isinstance(owner, type) else object.__repr__(owner)
        return f"method {full_name(self._plain())} of {of}"

    def __reduce__(self) -> Any:
        owner = self._owner()
        return getattr, (self._self_owner if owner is None else owner, self.__name__)

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return self.__reduce__()

    def __copy__(self) -> BoundBatched:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        owner = self._owner()
        if owner is None or isinstance(owner, type):
            return self
        return type(self)(self._self_parent, copy.deepcopy(owner, memo))


class Batched(Calls, _Wrapper):
    """A batched function: a call takes one item and returns a `BatchFuture`."""

    # Python finds `__call__` in this slot, in C. After the first call it is the engine's.
    # A method would need one more frame and a dict: 5542 instead of 4052 instructions per call.
    __slots__ = ("__call__",)
    # wrapt calls this to bind a method. It creates the object without `_BoundType.__call__`.
    __bound_function_wrapper__ = type.__call__.__get__(BoundBatched)
    _self_class: type | None = None  # the class whose method it is

    def __init__(self, function: Any, options: Options, seam: Any = None) -> None:
        super().__init__(function, _refuse_default_call)
        check_options(options, is_async(function))
        self._self_scopes = Scopes(options, is_async(function), seam)
        self._reset_call()
        _all.append(ref(self, _all.remove))
        for one in _seams.copy():  # after `_all`: a clock that starts now is not missed
            self._move_to(self._self_scopes.copy_for(one))

    def _move_to(self, scopes: Scopes) -> None:
        """Use `scopes` for all further calls."""
        self._self_scopes = scopes
        self._reset_call()

    def _reset_call(self) -> None:
        """Make the next call choose its path again."""
        self._self_is_prepared = False
        weak = ref(self)  # a strong reference would be a cycle
        name = self._options().name

        def call(item: Any = MISSING, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
            batched: Any = weak()
            if batched is None:
                raise collected_error(name)
            if item is MISSING:
                raise batched._missing_item_error()
            return batched._call(item, args, kwargs)  # type: ignore[no-any-return]

        self._set_call(call)

    def _set_call(self, call: Callable[..., BatchFuture[Any]]) -> None:
        # wrapt would forward an assignment to the function.
        Batched.__dict__["__call__"].__set__(self, call)

    def _call(self, item: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BatchFuture[Any]:
        if args and (self._self_class is not None or isinstance(item, type)):
            bound = self._method_of(item)
            if bound is not None:
                return bound._submit(args[0], args[1:], kwargs)
        if not self._self_is_prepared and not overrides:
            scopes = self._self_scopes
            scope: Any = self._scope_for_call()
            name = scope.options.name
            tracer = tracer_of(name)  # the fast path depends on it
            if not scope.takes_more and scope.options.is_plain:
                submit = scope.submitter(self._plain(), self._make_getter(scope))
                # Python's error for a call without an item contains this name.
                submit.__qualname__ = default_name(self.__wrapped__)
                self._set_call(submit)
            self._self_is_prepared = True
            has_changed = self._self_scopes is not scopes or tracer_of(name) is not tracer
            if overrides or has_changed:  # in another thread, since the checks above
                self._reset_call()
        return self._submit(item, args, kwargs)

    def __set_name__(self, owner: type, name: str) -> None:
        """Remember the class that defines this function as a method."""
        self._self_class = owner
        super().__set_name__(owner, name)

    def _method_of(self, owner: Any) -> BoundBatched | None:
        """Return the method of `owner` if a call is `function(owner, item)`, else None."""
        if self._is_method_of(owner):
            return BoundBatched(self, owner)
        if self._is_under_classmethod(owner):
            bound: BoundBatched = self.__bound_function_wrapper__(
                self.__wrapped__.__get__(owner, type(owner)),
                owner,
                _refuse_default_call,
                None,
                "classmethod",
                self,
                owner,
            )
            return bound
        return None

    def _is_method_of(self, owner: Any) -> bool:
        """Return True if this is a method of the instance `owner`, or of the class `owner`."""
        if self._self_class is None or self._self_binding == "staticmethod":
            return False
        if self._self_binding == "classmethod":
            return isinstance(owner, type) and issubclass(owner, self._self_class)
        return isinstance(owner, self._self_class)

    def _is_under_classmethod(self, owner: Any) -> bool:
        """Return True if `@classmethod` is above `@batched`: since 3.13 it does not bind."""
        if not isinstance(owner, type):
            return False
        found = inspect.getattr_static(owner, self.__name__, None)
        own: Any = self
        return isinstance(found, classmethod) and found.__func__ is own

    def _scope(self) -> Scope:
        return self._self_scopes.of(None, self._plain())

    def _plain(self) -> Callable[..., Any]:
        function: Callable[..., Any] = self.__wrapped__
        return function

    def _options(self) -> Options:
        return self._self_scopes.options_of(None)

    def _configure(self, option: str, value: object) -> None:
        self._self_scopes.configure(option, value)

    def _observers(self) -> Observers:
        return self._self_scopes.observers

    def _make_getter(self, scope: Scope) -> Callable[[], Any]:
        return ref(self)

    def __reduce__(self) -> Any:
        name = default_name(self.__wrapped__)
        found: Any = sys.modules.get(self.__module__)
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is not self:
            from .remote import unpicklable

            raise unpicklable(name)
        return name  # like functions, it is pickled by name

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return self.__reduce__()

    def __copy__(self) -> Batched:
        return self

    def __deepcopy__(self, memo: Any) -> Batched:
        return self


def check_function(function: Any) -> None:
    """Raise TypeError if `function` cannot be decorated."""
    if isinstance(function, type) or not (
        callable(function) or isinstance(function, (classmethod, staticmethod))
    ):
        is_size = isinstance(function, int)
        hint = f"; options are given by name: write @batched(size={function})" if is_size else ""
        raise TypeError(f"batched needs a function that takes a list, got {kind(function)}{hint}")
    known: set[int] = set()
    link = function
    while link is not None and id(link) not in known:
        if issubclass(type(link), (Calls, CallOptions)):
            raise TypeError(f"{default_name(function)} is batched already: decorate it once")
        known.add(id(link))
        link = inner(link)


def check_options(options: Options, is_async_function: bool) -> None:
    """Raise TypeError for async functions in options whose result is not awaited."""
    for option in ("key", "weight", "dedupe"):
        if is_async(getattr(options, option)):
            raise TypeError(f"{option} must not be an async function")
    if is_async(options.executor):
        raise TypeError("executor must not be an async function")
    if options.executor is not None and is_async_function:
        raise TypeError("executor is for def functions only: an async def runs on its loop")
    if is_async(options.on_error) and not is_async_function:
        raise TypeError("on_error may be an async function for async functions only")
