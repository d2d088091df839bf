"""`broker=`: the protocol between callers, a durable queue and workers.

A broker keeps each message until it is settled, counts how often each was delivered, and makes the
answer, the acknowledgement and the removal of a message one atomic step.
The engine of a function's callers uses a `Producer`, a worker process a `Consumer`; `redis`
implements both.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from .codec import Codec
from .naming import name_of


class Unreachable(Exception):
    """The server cannot be reached at the moment; a later attempt may succeed."""


class Message(NamedTuple):
    """One item on its way to a worker.

    Attributes:
        number: identifies the item in the caller's process.
        payload: the call, as bytes.
        deadline: when the item must have started, in seconds since the epoch; None: no limit.
        priority: the priority that the caller gave.
        is_flushed: True if the worker must run the item without lingering.
    """

    number: int
    payload: bytes
    deadline: float | None = None
    priority: float = 0
    is_flushed: bool = False

    def __repr__(self) -> str:
        return f"<Message {self.number}>"  # no content


class Delivery(NamedTuple):
    """A message that a worker has received.

    Attributes:
        id: identifies the message in the broker.
        message: the message.
        reply_to: where to send the answer; empty if no caller waits for one.
    """

    id: str
    message: Message
    reply_to: str


class Overdue(NamedTuple):
    """A delivery whose lease has expired.

    Attributes:
        id: identifies the message in the broker.
        deliveries: how often it was delivered.
    """

    id: str
    deliveries: int


class Producer(Protocol):
    """The side of one function's callers, in one process.

    All methods except `stop` raise `Unreachable` if the server cannot be reached.
    """

    def capacity(self) -> int:
        """Return how many messages the broker accepts now."""
        ...

    def send(self, messages: Sequence[Message]) -> int:
        """Store as many of the messages as fit into one atomic step; return their number.

        Either all of these are stored, or none.
        """
        ...

    def flush(self) -> None:
        """Tell the workers that messages sent before this call must not linger."""
        ...

    def answers(self, seconds: float) -> list[tuple[int, bytes]]:
        """Return the numbers and outcomes of finished messages; wait `seconds` for the first."""
        ...

    def missing(self, numbers: Sequence[int]) -> list[int]:
        """Return the numbers of messages that the broker no longer holds: settled or lost ones."""
        ...

    def stop(self) -> None:
        """Close the connections."""
        ...


class Consumer(Protocol):
    """The side of one worker process.

    All methods that contact the server, except `stop`, raise `Unreachable` if it cannot be reached.
    """

    def remove_idle_workers(self) -> None:
        """Unregister workers that were not active for a long time and hold no messages."""
        ...

    def take(self, count: int, seconds: float) -> list[Delivery]:
        """Return at most `count` new messages; wait `seconds` for the first."""
        ...

    def overdue(self, count: int) -> list[Overdue]:
        """Return at most `count` deliveries whose lease has expired, the oldest first."""
        ...

    def claim(self, ids: Sequence[str]) -> list[Delivery]:
        """Take over those of the deliveries that are still overdue; this counts as a delivery."""
        ...

    def renew(self, ids: Sequence[str]) -> None:
        """Restart the lease of those of the deliveries that this worker still holds."""
        ...

    def settle(self, answers: Sequence[tuple[Delivery, bytes]]) -> None:
        """Answer, acknowledge and remove each delivery, in one atomic step per delivery."""
        ...

    def dead_letter(self, answers: Sequence[tuple[Delivery, bytes]]) -> None:
        """Settle each delivery, and store its message as a dead letter in the same atomic step."""
        ...

    def flushes(self, seconds: float) -> list[str]:
        """Return ids up to which no message may linger; wait `seconds` for the first new one."""
        ...

    def is_up_to(self, delivery: str, last: str) -> bool:
        """Return True if the delivery with this id is `last`, or was sent before it."""
        ...

    def stop(self) -> None:
        """Unregister this worker if it holds no messages, and close the connections."""
        ...


class Broker(Protocol):
    """The type of `broker=`.

    Attributes:
        codec: encodes calls and outcomes.
        lease: seconds after which a delivery is overdue.
        max_deliveries: how often a message is delivered before it becomes a dead letter.
        send_timeout: seconds for which a message waits for an unreachable server.
    """

    codec: Codec
    lease: float
    max_deliveries: int
    send_timeout: float

    def producer(self, function: Callable[..., Any]) -> Producer:
        """Return the side of the function's callers in this process, without connecting.

        Raises:
            TypeError: the function is a method, and its instance cannot be sent.
            ValueError: a worker could not find the function by its name.
        """
        ...

    def consumer(self, function: Callable[..., Any]) -> Consumer:
        """Return the side of one worker process of the function."""
        ...

    def dead_letters(self, function: Callable[..., Any]) -> Any:
        """Return the dead letters of the function, which can be listed, requeued and deleted."""
        ...


def refuse_method(function: Callable[..., Any]) -> None:
    """Raise TypeError if the function is a method: its instance or class cannot be sent."""
    if inspect.ismethod(function):
        raise TypeError(
            f"broker works with functions and static methods, got the method "
            f"{function.__qualname__}, whose instance or class cannot be sent"
        )


def address_of(function: Callable[..., Any]) -> str:
    """Return `module.qualified_name`, the same in every process, even for a function in a script.

    Raises:
        ValueError: a worker could not import the function by its name.
    """
    module, name = name_of(function)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name:
        raise ValueError(
            f"broker: workers import the function by its name, but {name or 'this one'} cannot be "
            "imported; define it at the top level of a module"
        )
    return f"{_name_of_main() if module == '__main__' else module}.{name}"


def _name_of_main() -> str:
    """Return the name under which other processes import the running script."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return str(spec.name).removesuffix(".__main__")
    file = getattr(main, "__file__", None)
    return "__main__" if file is None else Path(file).stem
