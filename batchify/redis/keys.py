"""Name the Redis keys of a function, and convert messages to stream entries and back.

Workers and callers of different versions of a program share these names and fields.
Callers are the other modules of `redis`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..broker import Delivery, Message

GROUP = "workers"


class Keys(NamedTuple):
    """The Redis keys of one function."""

    stream: str

    @property
    def dead(self) -> str:
        """Return the key of the stream of dead letters."""
        return f"{self.stream}:dead"

    @property
    def flushes(self) -> str:
        """Return the key of the stream of flushes."""
        return f"{self.stream}:flushes"

    def answers(self, caller: str) -> str:
        """Return the key of the stream of answers for the process `caller`."""
        return f"{self.stream}:answers:{caller}"


# ---- entries ----

ITEM, CALLER, NUMBER, DEADLINE, PRIORITY, FLUSHED = b"i", b"c", b"n", b"d", b"p", b"f"
DELIVERIES = b"deliveries"
UP_TO = b"to"
FLUSHES = 100  # how many flushes are kept; only the last one counts


def fields_of(message: Message, caller: str) -> dict[Any, Any]:
    """Return the fields of the stream entry for a message of the process `caller`."""
    fields: dict[Any, Any] = {ITEM: message.payload, CALLER: caller, NUMBER: message.number}
    if message.deadline is not None:
        fields[DEADLINE] = repr(message.deadline)
    if message.priority:
        fields[PRIORITY] = repr(message.priority)
    if message.is_flushed:
        fields[FLUSHED] = 1
    return fields


def delivery_of(entry: bytes, fields: dict[bytes, bytes]) -> Delivery:
    """Return the delivery that an entry of the stream describes.

    Raises:
        ValueError: batchify did not write the entry.
    """
    deadline = fields.get(DEADLINE)
    message = Message(
        number=int(fields.get(NUMBER, b"0")),
        payload=fields.get(ITEM, b""),
        deadline=None if deadline is None else float(deadline),
        priority=float(fields.get(PRIORITY, b"0")),
        is_flushed=FLUSHED in fields,
    )
    return Delivery(entry.decode(), message, fields.get(CALLER, b"").decode())


def order_of(entry: str) -> tuple[int, int]:
    """Return a sort key for the id of an entry, or (0, 0) for an invalid id."""
    time, _, number = entry.partition("-")
    return (int(time), int(number)) if time.isdecimal() and number.isdecimal() else (0, 0)
