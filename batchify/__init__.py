"""batchify: a function that takes a list becomes one that is called with one item.

@batched(size=500, linger=0.01, workers=2)
def insert_users(users: list[User]) -> list[int]: ...

insert_users(user).result()     # or: await insert_users(user)
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
