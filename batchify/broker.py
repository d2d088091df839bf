"""`broker=`: what lies between the callers and the workers, as both ends see it.

A caller's end is an `Outbox`, a worker's end an `Inbox`; `redis` has both. Whatever carries the
items must keep what was sent until it was settled, say how often each was delivered, and make the
answer, the acknowledgement and the removal of an item one atomic step.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .naming import name_of
from .wire import Wire


class Unreachable(Exception):
    """The server cannot be reached now; it may be later."""


class Letter(NamedTuple):
    """One item on its way to a worker.

    Attributes:
        number: what the caller's process knows it by.
        payload: the call, as bytes.
        deadline: by when it is to start, in seconds since the epoch.
        priority: as given by the call.
        is_flushed: it is not to linger.
    """

    number: int
    payload: bytes
    deadline: float | None = None
    priority: float = 0
    is_flushed: bool = False

    def __repr__(self) -> str:
        return f"<Letter {self.number}>"  # no content


class Delivery(NamedTuple):
    """A letter, as a worker has it.

    Attributes:
        id: what the broker knows it by.
        letter: the letter.
        reply_to: where its answer goes.
    """

    id: str
    letter: Letter
    reply_to: str


class Overdue(NamedTuple):
    """A delivery whose lease has ended: what it is known by, and how often it was delivered."""

    id: str
    deliveries: int


class Outbox(Protocol):
    """The end of one function's callers in one process. All but `stop` raises `Unreachable`."""

    def room(self) -> int:
        """How many letters may be sent now."""
        ...

    def send(self, letters: Sequence[Letter]) -> int:
        """Add as many of the letters as go into one step, all of them or none; gives how many."""
        ...

    def flush(self) -> None:
        """Have what was sent so far linger no more."""
        ...

    def answers(self, seconds: float) -> list[tuple[int, bytes]]:
        """The numbers and outcomes of what has ended; waits that long for the first."""
        ...

    def missing(self, numbers: Sequence[int]) -> list[int]:
        """Which of these letters the broker does not hold: those that are settled, or lost."""
        ...

    def stop(self) -> None:
        """Close the connections."""
        ...


class Inbox(Protocol):
    """The end of one worker process. All that asks the server raises `Unreachable`."""

    def tidy(self) -> None:
        """Take workers off the list that were not heard of for long, and have nothing."""
        ...

    def take(self, count: int, seconds: float) -> list[Delivery]:
        """At most `count` new letters; waits that long for the first."""
        ...

    def overdue(self, count: int) -> list[Overdue]:
        """What others have had for longer than the lease: at most `count`, the oldest first."""
        ...

    def claim(self, ids: Sequence[str]) -> list[Delivery]:
        """Take over what is still overdue of these: one more delivery."""
        ...

    def renew(self, ids: Sequence[str]) -> None:
        """Begin the lease anew, of those that are still this worker's."""
        ...

    def settle(self, answers: Sequence[tuple[Delivery, bytes]]) -> None:
        """Answer, acknowledge and remove: each of them in one atomic step."""
        ...

    def bury(self, answers: Sequence[tuple[Delivery, bytes]]) -> None:
        """`settle`, with the letters kept among the dead ones."""
        ...

    def flushes(self, seconds: float) -> list[str]:
        """Up to which ids nothing is to linger; waits that long for the first new one."""
        ...

    def is_up_to(self, delivery: str, last: str) -> bool:
        """Was the delivery of that id sent before `last`, or is it that one?"""
        ...

    def stop(self) -> None:
        """Take this worker off the list, if nothing is left with it."""
        ...


class Broker(Protocol):
    """What `broker=` takes."""

    wire: Wire
    lease: float  # seconds
    max_deliveries: int
    send_timeout: float  # seconds

    def outbox(self, function: Callable[..., Any]) -> Outbox:
        """For its callers in one process; connects to nothing.

        Raises:
            TypeError: it is a method, whose instance cannot be sent.
            ValueError: a worker could not find it by its name.
        """
        ...

    def inbox(self, function: Callable[..., Any]) -> Inbox:
        """For one worker of it."""
        ...

    def dead_letters(self, function: Callable[..., Any]) -> Any:
        """What of it was delivered too often: to be looked at, requeued and deleted."""
        ...


def refuse_method(function: Callable[..., Any]) -> None:
    """Raise TypeError for a method: the instance, or the class, cannot be sent."""
    if inspect.ismethod(function):
        raise TypeError(
            f"broker is for functions and static methods, got the method {function.__qualname__}: "
            "an instance or a class cannot be sent"
        )


def address_of(function: Callable[..., Any]) -> str:
    """`module.qualified_name`: the same in every process, also in the one whose script it is.

    Raises:
        ValueError: it has no name by which a worker could find it.
    """
    module, name = name_of(function)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name:
        raise ValueError(
            f"broker: workers find a function by its name: {name or 'this one'} has none that can "
            "be imported (define it at the top of a module)"
        )
    return f"{_name_of_main() if module == '__main__' else module}.{name}"


def _name_of_main() -> str:
    """How others import the script that is being run."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    return "__main__" if file is None else Path(file).stem
