"""The states of an item that is accepted or waits for room, and has not started."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from typing import Any


class Route:
    """Where a call goes: an engine, the function to run and the extra arguments.

    It is the state of a pending future, so what waits keeps its engine (and, for a method, the
    instance) alive, and nothing else does.
    """

    __slots__ = (
        "args", "batched", "engine", "function", "is_closing", "key", "kin", "kwargs", "users",
        "work",
    )  # fmt: skip
    is_running = False

    def __init__(
        self,
        engine: Any,
        function: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        batched: Any = None,
        key: Any = None,
    ) -> None:
        self.engine = engine
        self.function = function
        self.args = args
        self.kwargs = kwargs or {}
        self.batched = batched  # gives the decorated object, for on_error
        self.key = key  # what the engine finds it by; None: it is one of many that are alike
        # Entries of the same kin go together. (The route itself would be a cycle.)
        self.kin: Any = None if key is None else object()
        # One for each call on its way in, batch that runs, and entry that waits to run again: a
        # list, as its appends are atomic, and `del users[-1:]`, which bears that there is none: all
        # may have been forgotten. With entries in a group, they keep the route.
        self.users: list[None] = []
        self.is_closing = False  # somebody forgets it, unless there are users
        self.work: Any = None  # what its batches are run with, once there was one

    def holders(self, me: Any) -> Any:
        return self.engine.holders(me)


class _Pending:
    """A state that knows its engine by a route."""

    __slots__ = ()
    is_running = False
    route: Any

    @property
    def engine(self) -> Any:
        """The engine; None when the entries have left: their state has changed then."""
        route = self.route
        return None if route is None else route.engine

    def holders(self, me: Any) -> Any:
        engine = self.engine
        return None if engine is None else engine.holders(me)


class Waiting(_Pending):
    """The state of an entry that waits for room; `admitted()` is called when there is some."""

    __slots__ = ("admitted", "route")

    def __init__(self, route: Route, admitted: Any) -> None:
        self.route = route
        self.admitted = admitted


class Room:
    """What the call of such an entry waits for."""

    __slots__ = ("entry",)

    def __init__(self, entry: Any) -> None:
        self.entry = entry

    def holders(self, me: Any) -> Any:
        state = self.entry._s
        # Once it has room, its call goes on, awake already or not.
        return state.holders(me) if state.__class__ is Waiting else None

    def _function_name(self) -> str:
        name: str = self.entry._function_name()
        return name


class Line(_Pending):
    """The accepted entries of a `Plain` forming that are not in the intake any more."""

    __slots__ = ("dead", "entries", "forced", "is_flush", "route")

    def __init__(self) -> None:
        self.route: Any = None
        self.entries: deque[Any] = deque()
        self.dead = 0  # cancelled ones among the entries
        self.forced: Any = None  # the youngest entry that must leave now, and all before it
        self.is_flush = False  # because of a flush


class Group(_Pending):
    """The accepted entries of a `Grouped` forming that may share a batch, oldest first."""

    __slots__ = (
        "boundary", "entries", "forced", "is_flush", "is_mixed", "is_ready", "mark",
        "mark_by_age", "ranks", "route", "since", "top", "weight",
    )  # fmt: skip

    def __init__(self, route: Any) -> None:
        self.route = route
        self.entries: OrderedDict[Any, int] = OrderedDict()  # with their numbers
        self.weight = 0.0
        self.boundary = 0  # entries up to this number must leave now
        self.forced = 0  # how many of them are left
        self.is_flush = False  # they must because of a flush
        self.is_mixed = False  # those that were put back are not in order
        self.since = math.inf  # the age of what is behind them, or of the oldest of them
        self.is_ready = False
        self.mark = 0  # where it stands in the forming's rankings
        self.mark_by_age = 0
        self.ranks: list[Any] = []  # a heap of the entries by priority, where there are any
        self.top: float = 0  # the highest priority, or more

    @property
    def oldest(self) -> Any:
        return next(iter(self.entries))

    @property
    def age(self) -> tuple[float, int]:
        """What orders groups by their oldest entries: its time, and its number.

        One that runs again and again would be the oldest for ever: its last run counts.
        """
        entry, number = next(iter(self.entries.items()))
        return min(entry._terms.again or entry._t, self.since), number


class Delayed(_Pending):
    """The state of an entry that is to run again, and not before a certain time."""

    __slots__ = ("mark", "route")

    def __init__(self, route: Route) -> None:
        self.route = route
        self.mark = 0

    def holders(self, me: Any) -> Any:
        return None  # time will bring it


class Chunk(_Pending):
    """The state of a future for many items, which are a batch already."""

    __slots__ = ("chunk", "count", "is_flushed", "route", "since")

    def __init__(self, route: Route, chunk: list[Any], since: float) -> None:
        self.route = route
        self.chunk = chunk  # the outcomes, none yet
        self.count = len(chunk)
        self.is_flushed = False
        self.since = since
