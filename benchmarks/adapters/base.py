"""The interface between the harness and the rivals."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

THREADS, ASYNCIO, BRIDGED = "threads", "asyncio", "bridged"


class Outcome(Protocol):
    """What `submit` returns: a future, or an object with `result`."""

    def result(self) -> Any: ...


class Rival:
    """Connects single calls to a function that takes a list.

    The harness makes a new instance for each measurement: for `threads` with a `def`, for `asyncio`
    on the running loop with an `async def`, for `bridged` on the running loop with a `def`.
    """

    name: str
    modes: tuple[str, ...]  # THREADS needs `submit`, ASYNCIO and BRIDGED need `acall`
    scenarios: tuple[str, ...] = ()  # run in these scenarios only; empty: in all of its modes
    not_in: tuple[str, ...] = ()  # the scenarios that it does not fit
    is_floor = False  # it does only the minimum; see `floors`
    version: str | None = None  # reported with the results

    def __init__(
        self, function: Callable[..., Any], size: int, linger: float, workers: int
    ) -> None:
        raise NotImplementedError

    def submit(self, item: Any) -> Outcome:
        raise NotImplementedError

    def map(self, items: Iterable[Any]) -> list[Any]:
        """Return the results of all items, in order."""
        futures = [self.submit(item) for item in items]
        return [future.result() for future in futures]

    def acall(self, item: Any) -> Awaitable[Any]:
        raise NotImplementedError

    async def amap(self, items: Iterable[Any]) -> list[Any]:
        """Return the results of all items, in order, on the loop."""
        return await asyncio.gather(*[self.acall(item) for item in items])

    def close(self) -> None:
        """Stop what was started. Nothing is pending any more."""

    async def aclose(self) -> None:
        """Stop what was started, on the loop."""
