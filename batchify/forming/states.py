"""The states of an item that is accepted or waits for room, and has not started."""

from __future__ import annotations

from collections import deque
from typing import Any


class Route:
    """Where a call goes: an engine, the function to run and the extra arguments.

    It is the state of a pending future, so what waits keeps its engine (and, for a method, the
    instance) alive, and nothing else does.
    """

    __slots__ = ("args", "batched", "engine", "function", "kwargs")
    is_running = False

    def __init__(
        self,
        engine: Any,
        function: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        batched: Any = None,
    ) -> None:
        self.engine = engine
        self.function = function
        self.args = args
        self.kwargs = kwargs or {}
        self.batched = batched  # gives the decorated object, for on_error

    def holders(self, me: Any) -> Any:
        return self.engine.holders(me)


class Waiting:
    """The state of an entry that waits for room; `admitted()` is called when there is some."""

    __slots__ = ("admitted", "route")
    is_running = False

    def __init__(self, route: Route, admitted: Any) -> None:
        self.route = route
        self.admitted = admitted

    @property
    def engine(self) -> Any:
        return self.route.engine

    def holders(self, me: Any) -> Any:
        return self.route.engine.holders(me)


class Group:
    """The accepted entries that may share a batch, oldest first."""

    __slots__ = ("dead", "entries", "forced", "mark", "route")
    is_running = False

    def __init__(self, route: Any = None) -> None:
        self.route = route
        self.entries: deque[Any] = deque()
        self.dead = 0  # cancelled ones among the entries
        self.forced: Any = None  # the youngest entry that must leave now, and all before it
        self.mark = 0  # which mark on the heaps of groups is the valid one

    @property
    def live(self) -> int:
        return len(self.entries) - self.dead

    @property
    def engine(self) -> Any:
        """The engine; None when the entries have left: their state has changed then."""
        route = self.route
        return None if route is None else route.engine

    def holders(self, me: Any) -> Any:
        engine = self.engine
        return None if engine is None else engine.holders(me)
