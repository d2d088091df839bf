"""What the harness asks of a rival."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

THREADS, ASYNCIO, BRIDGED = "threads", "asyncio", "bridged"


class Outcome(Protocol):
    """What `submit` gives: a future, or what passes for one."""

    def result(self) -> Any: ...


class Rival:
    """One way to bring single calls to a function that takes a list.

    Made anew for each measurement: in `threads` with a plain function, in `asyncio` on the
    running loop with an `async def`, in `bridged` on the running loop with a plain function.
    """

    name: str
    ways: tuple[str, ...]  # THREADS needs `submit`, ASYNCIO and BRIDGED need `acall`
    scenarios: tuple[str, ...] = ()  # the only ones to run in; none named: all of its ways
    not_in: tuple[str, ...] = ()  # the scenarios that it does not fit
    is_floor = False  # it does no more than any engine must; see `floors`
    version: str | None = None  # noted beside the results

    def __init__(
        self, function: Callable[..., Any], size: int, linger: float, workers: int
    ) -> None:
        raise NotImplementedError

    def submit(self, item: Any) -> Outcome:
        raise NotImplementedError

    def map(self, items: Iterable[Any]) -> list[Any]:
        """The results of all items, in order."""
        futures = [self.submit(item) for item in items]
        return [future.result() for future in futures]

    def acall(self, item: Any) -> Awaitable[Any]:
        raise NotImplementedError

    async def amap(self, items: Iterable[Any]) -> list[Any]:
        """The same on the loop."""
        return await asyncio.gather(*[self.acall(item) for item in items])

    def close(self) -> None:
        """End what was started; nothing is pending any more."""

    async def aclose(self) -> None:
        """The same, on the loop."""
