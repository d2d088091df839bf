"""Where a call goes: one route for all calls of a kind, as long as somebody uses it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

from ..forming import Grouped, Plain, Route
from ..options import Options
from ..terms import NO_TERMS, Terms, check_extra, extra_key, hashable, terms_of, unhashable_extra
from .mending import Mending
from .seam import Seam

MANY = 1000  # looks at a route that is being forgotten: it takes a microsecond


class Routing(Mending):
    """Kinds of items: equal keys and equal extra arguments go the same way."""

    options: Options
    seam: Seam
    forming: Plain | Grouped
    takes_more: bool  # the function has more parameters than the list
    has_kinds: bool

    def __init__(self) -> None:
        super().__init__()
        self.routes: dict[Any, Route] = {}  # where there are kinds, by what tells them apart
        # A call has raised: when a handler broke it off, it may still be a user of its route.
        self.is_broken_off = False

    def reject(self) -> None:
        """Count a call that was refused for its arguments."""
        raise NotImplementedError

    def way(
        self, function: Callable[..., Any], item: Any, args: tuple[Any, ...],
        kwargs: dict[str, Any], batched: Callable[[], Any], priority: float = 0,
        deadline: float | None = None,
    ) -> tuple[Route, Terms]:  # fmt: skip
        """Where a call goes, and what it asks for; counts the call if that cannot be found out.

        Raises:
            ItemTooHeavy: the item weighs more than a batch may.
            TypeError: something that must be hashed cannot be.
            Exception: what `key`, `weight` or `dedupe` raise.
        """
        options = self.options
        try:
            check_extra(options.name, self.takes_more, args, kwargs)
            if options.is_plain and not priority and deadline is None:
                terms = NO_TERMS
            else:
                end = None if deadline is None else self.seam.clock() + deadline
                terms = terms_of(options, item, priority, end)
            if not self.has_kinds:
                return Route(self, function, batched=batched), terms
            extra = extra_key(options.name, args, kwargs)
            if options.key is not None:
                extra = hashable(options.name, "key", options.key(item)), extra
            return self._route(extra, function, args, kwargs, batched), terms
        except BaseException:
            self.reject()
            raise

    def _route(
        self, key: Any, function: Callable[..., Any], args: tuple[Any, ...],
        kwargs: dict[str, Any], batched: Callable[[], Any],
    ) -> Route:  # fmt: skip
        """The one route of all calls of this kind."""
        try:
            found = self.routes.get(key)
        except TypeError as error:
            raise unhashable_extra(self.options.name, error) from None
        # One C call makes it exactly once; who hashes and compares is the caller, without a lock.
        # Who forgets a route first says so, then looks for users: one of the two sees the other.
        for _ in range(MANY):
            if found is None:
                new = Route(self, function, args, kwargs, batched, key)
                found = self.routes.setdefault(key, new)
            found.users.append(None)
            if not self.has_gil:
                self.pass_lock()
            if not found.is_closing:
                return found
            del found.users[-1:]
            time.sleep(0)
            found = self.routes.get(key)
        # Who forgets it is this thread, below a finalizer or a signal handler.
        return Route(self, function, args, kwargs, batched, key)

    def _forget_routes(self) -> None:
        """Let go of the extra arguments that no pending item has (not under the lock: hashes)."""
        if isinstance(self.forming, Plain):
            return
        gone = self.forming.gone
        with contextlib.suppress(Exception):  # an IndexError of two who pop; a hash that raises
            if self.is_broken_off and self.forming.is_at_rest():
                self.is_broken_off = False
                # Of users who are on their way in the route is forgotten too early, which is no
                # harm: a call like theirs would just not share their batch.
                for route in self.routes.copy().values():
                    route.users.clear()
                    gone.append(route)
            while gone:
                route = gone.pop()
                if self.forming.is_used(route) or self.routes.get(route.key) is not route:
                    continue
                route.is_closing = True
                try:
                    if not self.has_gil:
                        self.pass_lock()
                    if self.forming.is_used(route):
                        route.is_closing = False
                    else:
                        del self.routes[route.key]
                except BaseException:
                    route.is_closing = False  # it stays
                    raise
