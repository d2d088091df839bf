"""What the harness asks of a rival."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

THREADS, ASYNCIO, BRIDGED = "threads", "asyncio", "bridged"


class Outcome(Protocol):
    """What `submit` gives: a future, or what passes for one."""

    def result(self) -> Any: ...


class Rival:
    """One way to bring single calls to a function that takes a list.

    Made anew for each measurement: in `threads` with a plain function, in `asyncio` on the
    running loop with an `async def`.
    """

    name: str
    ways: tuple[str, ...]  # THREADS needs `submit`, ASYNCIO needs `acall`
    scenarios: tuple[str, ...] = ()  # the only ones to run in; none named: all of its ways
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

    def close(self) -> None:
        """End what was started; nothing is pending any more."""

    async def aclose(self) -> None:
        """The same, on the loop."""
