"""Which items go together, and when: pure, without thread, lock, clock or I/O.

The callers append to the intake, a deque. The forming looks at it when asked, and moves entries
on; its own state is the capacity that is in use. An *entry* is anything with a state `_s`, the
time `_t` of its submission and its `_terms` (a future); a state of class `Done` means that it
was cancelled where it lay, and it is dropped when it comes to the front.

    intake ──► (no room: stays there) ──► line or group ──► batch

Two formings share this: `Plain` has one line and takes straight from the intake as long as
everything in it has room; `Grouped` sorts the entries by their kin, and knows all the rest.
"""

from __future__ import annotations

from .base import NEVER, Decision, Forming
from .grouped import Grouped
from .plain import Plain
from .states import Chunk, Delayed, Group, Line, Room, Route, Waiting

__all__ = [
    "NEVER",
    "Chunk",
    "Decision",
    "Delayed",
    "Forming",
    "Group",
    "Grouped",
    "Line",
    "Plain",
    "Room",
    "Route",
    "Waiting",
]
