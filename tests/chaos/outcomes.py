"""The possible outcomes of items, and the random choices that follow from the seed."""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
from collections.abc import Callable
from functools import partial

from batchify import BadResult, Closed, DeadlineExceeded, MissingResult, QueueFull

(
    NOTHING, VALUE, NONE, FALLBACK, RAISED, RUDE, EXITED, INTERRUPTED, GENERATOR_ENDED,
    CANCEL_RAISED, ENDED, KILLED, STOPPED, STOPPED_ASYNC, BAD, MISSING, ELEMENT, BASE_ELEMENT,
    RETRYING, EXHAUSTED, EXPIRED, CLOSED, CANCELLED, FULL, REFUSED, WRONG,
) = range(26)  # fmt: skip
OUTCOMES = (
    "nothing", "its value", "None", "its fallback", "the error raised", "BatchAborted by Rude",
    "BatchAborted by SystemExit", "BatchAborted by KeyboardInterrupt",
    "BatchAborted by GeneratorExit", "BatchAborted by CancelledError",
    "BatchAborted by the loop's end", "BatchAborted by an asynchronous exception",
    "RuntimeError by StopIteration", "RuntimeError by StopAsyncIteration", "BadResult",
    "MissingResult", "its own error", "BatchAborted by its own SystemExit", "a further run",
    "RetryExhausted", "DeadlineExceeded", "Closed", "a cancellation", "QueueFull", "a refusal",
    "an outcome of no item",
)  # fmt: skip
SUCCESSES = frozenset((VALUE, NONE, FALLBACK))
TURNED_AWAY = frozenset((CLOSED, FULL, REFUSED))

# What a caller, or an item's situation, allows and requires.
(
    SUBMITTED,  # a cancel was tried
    MAY_CANCEL,
    NEVER_RUN,  # cancelled before its batch
    MAY_CLOSE,
    MAY_EXPIRE,
    DROPPED,  # no caller looks at the future
    CALLED,  # a callback must be called
    UNKNOWN,  # its outcome is unknown
    MAYBE,  # whether it was submitted is unknown
) = (1 << n for n in range(9))


class ChaosError(Exception):
    """Raised by a batch."""


class Picky(Exception):
    """An error that `copy.copy` cannot copy."""

    def __init__(self, number: int, *, detail: str) -> None:
        super().__init__(number)
        self.detail = detail


class Rude(BaseException):
    """Not an Exception, and not from the standard library."""


class Killed(BaseException):
    """Raised in a thread by another one, at any instruction."""


class ItemError(Exception):
    """The error of one item alone."""


RAISES: tuple[Callable[[int], BaseException], ...] = (
    ChaosError, ValueError, KeyError, OSError, TimeoutError, MemoryError,
    concurrent.futures.CancelledError, partial(Picky, detail="kept"),
)  # fmt: skip
RAISES_TYPES = (*RAISES[:-1], Picky)
ABORTS: dict[type[BaseException], int] = {
    SystemExit: EXITED,
    KeyboardInterrupt: INTERRUPTED,
    GeneratorExit: GENERATOR_ENDED,
    asyncio.CancelledError: CANCEL_RAISED,
    Rude: RUDE,
}
STOPS: dict[type[BaseException], int] = {
    StopIteration: STOPPED,
    StopAsyncIteration: STOPPED_ASYNC,
}
PLAIN_ERRORS = {
    BadResult: BAD,
    MissingResult: MISSING,
    Closed: CLOSED,
    QueueFull: FULL,
    DeadlineExceeded: EXPIRED,
}


def answer(index: int, n: int, salt: int, age: int) -> int:
    """Return the result of item `n`, for one function, set of extra arguments and epoch."""
    return age << 56 | n << 24 | salt << 8 | index


def mix(seed: int, number: int) -> int:
    """Return 64 random bits for `number`, the same in every run with this seed (splitmix64)."""
    mask = (1 << 64) - 1
    z = (seed + number * 0x9E3779B97F4A7C15) & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return z ^ z >> 31


def scatter(salt: int, number: int) -> int:
    """Return random bits like `mix`, but faster, for choices made for each item."""
    return (number ^ salt & 0xFFFFFF) * 0x9E3779B1 >> 9 & 0xFFFFFF


_hashes: dict[str, int] = {}


def hash_of(text: str) -> int:
    """Return a hash of a text, the same in every process."""
    found = _hashes.get(text)
    if found is None:
        found = _hashes[text] = random.Random(text).getrandbits(63)
    return found
