"""Names and forms: what lies where, and what an entry of the stream is made of."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..broker import Delivery, Letter

GROUP = "workers"


class Keys(NamedTuple):
    """The names of what belongs to one function."""

    stream: str

    @property
    def dead(self) -> str:
        return f"{self.stream}:dead"

    @property
    def flushes(self) -> str:
        return f"{self.stream}:flushes"

    def answers(self, caller: str) -> str:
        return f"{self.stream}:answers:{caller}"


# ---- entries ----

ITEM, CALLER, NUMBER, DEADLINE, PRIORITY, FLUSHED = b"i", b"c", b"n", b"d", b"p", b"f"
DELIVERIES = b"deliveries"
UP_TO = b"to"
FLUSHES = 100  # that are kept; the last one counts


def fields_of(letter: Letter, caller: str) -> dict[Any, Any]:
    fields: dict[Any, Any] = {ITEM: letter.payload, CALLER: caller, NUMBER: letter.number}
    if letter.deadline is not None:
        fields[DEADLINE] = repr(letter.deadline)
    if letter.priority:
        fields[PRIORITY] = repr(letter.priority)
    if letter.is_flushed:
        fields[FLUSHED] = 1
    return fields


def delivery_of(entry: bytes, fields: dict[bytes, bytes]) -> Delivery:
    """What an entry of the stream says. Raises ValueError when it is none of ours."""
    deadline = fields.get(DEADLINE)
    letter = Letter(
        number=int(fields.get(NUMBER, b"0")),
        payload=fields.get(ITEM, b""),
        deadline=None if deadline is None else float(deadline),
        priority=float(fields.get(PRIORITY, b"0")),
        is_flushed=FLUSHED in fields,
    )
    return Delivery(entry.decode(), letter, fields.get(CALLER, b"").decode())


def order_of(entry: str) -> tuple[int, int]:
    """What ids are ordered by; (0, 0) of what is none."""
    time, _, number = entry.partition("-")
    return (int(time), int(number)) if time.isdecimal() and number.isdecimal() else (0, 0)
