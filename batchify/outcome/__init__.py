"""From what the function gives back, or raises, to one outcome for each item.

Pure: `conduct` is a generator that asks its driver to call things and tells it what to settle.
A driver with threads calls; a driver on an event loop also awaits. Neither knows the rules here.
As nearly every call gives a list of results, the first one is made by itself (`asked`), and such a
list settled (`is_simple`), without the generator: 14 of 181 thousand instructions a batch.
"""

from __future__ import annotations

from .attempt import asked
from .conduct import concluded, conduct
from .copies import copy_of
from .faults import caught, exhausted
from .talk import Ask, BatchFailure, Give, Raised, Talk, Work
from .values import is_simple

__all__ = [
    "Ask",
    "BatchFailure",
    "Give",
    "Raised",
    "Talk",
    "Work",
    "asked",
    "caught",
    "concluded",
    "conduct",
    "copy_of",
    "exhausted",
    "is_simple",
]
