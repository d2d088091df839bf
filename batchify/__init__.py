"""Turn a function that takes a list into one that is called with one item.

>>> from batchify import batched
>>> @batched(size=500, linger=0.01, workers=2)
... def double(numbers: list[int]) -> list[int]:
...     return [2 * number for number in numbers]
>>> double(21).result()  # in a coroutine: await double(21)
42
"""

from .api import Batched, batched
from .distribution import Distribution
from .errors import (
    BadResult,
    BatchAborted,
    BatchifyError,
    Closed,
    DeadLetter,
    DeadlineExceeded,
    Deadlock,
    Forked,
    ItemTooHeavy,
    MissingResult,
    QueueFull,
    RetryExhausted,
)
from .future import BatchFuture
from .observe import BatchEvent, observe
from .outcome import BatchFailure
from .retry import Retry
from .stats import Stats

__all__ = [
    "BadResult",
    "BatchAborted",
    "BatchEvent",
    "BatchFailure",
    "BatchFuture",
    "Batched",
    "BatchifyError",
    "Closed",
    "DeadLetter",
    "DeadlineExceeded",
    "Deadlock",
    "Distribution",
    "Forked",
    "ItemTooHeavy",
    "MissingResult",
    "QueueFull",
    "Retry",
    "RetryExhausted",
    "Stats",
    "batched",
    "observe",
]
