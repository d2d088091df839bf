"""From what the function gives back, or raises, to one outcome for each item.

Pure: `conduct` is a generator that asks its driver to call things and tells it what to settle.
A driver with threads calls; a driver on an event loop also awaits. Neither knows the rules here.
"""

from __future__ import annotations

from .conduct import conduct
from .faults import caught, copy_of, exhausted
from .talk import Ask, BatchFailure, Give, Raised, Talk, Work

__all__ = [
    "Ask",
    "BatchFailure",
    "Give",
    "Raised",
    "Talk",
    "Work",
    "caught",
    "conduct",
    "copy_of",
    "exhausted",
]
