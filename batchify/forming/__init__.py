"""Which items go together, and when: pure, without thread, lock, clock or I/O.

The callers append to the intake, a deque. The forming looks at it when asked, and moves entries
on; its own state is the capacity that is in use. An *entry* is anything with a state `_s` and
the time `_t` of its submission (a future); a state of class `Done` means that it was cancelled
where it lay, and it is dropped when it comes to the front.

    intake ──► (no room: stays there) ──► group ──► batch

Two formings share this: `Plain` has one group and takes straight from the intake as long as
everything in it has room; `Grouped` sorts the entries by their route.
"""

from __future__ import annotations

from .base import NEVER, Decision, Forming
from .grouped import Grouped
from .plain import Plain
from .states import Group, Route, Waiting

__all__ = ["NEVER", "Decision", "Forming", "Group", "Grouped", "Plain", "Route", "Waiting"]
