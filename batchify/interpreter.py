"""What the threads of this interpreter are: with a GIL or without, or gevent's greenlets.

The ways that take no lock are of one pattern: each side writes, then reads what the other side
writes, and at least one of the two finds what the other wrote. The GIL promises that. Without it
every step is still whole (CPython's own lists, deques and dicts see to that), but nothing promises
the order, so each side passes a lock between its write and its read: who passes it second finds
all that was written before by who passed it first.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib.machinery import BuiltinImporter, ModuleSpec
from typing import Any


def has_gil() -> bool:
    """Does one thread run at a time? (An extension may switch that on later, never off.)"""
    is_enabled = getattr(sys, "_is_gil_enabled", None)  # from 3.13 on
    return is_enabled is None or bool(is_enabled())


def has_greenlets() -> bool:
    """Has gevent put greenlets in the place of threads? (It is not imported for this.)"""
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


# If not, the locks and idents that this package has taken from `threading` are those of threads.
BEGAN_WITH_GREENLETS = has_greenlets()

# At the end of the process, while what was accepted is run (gh-113964).
STARTS_NO_THREAD_AT_EXIT = (3, 12) <= sys.version_info[:3] <= (3, 12, 2)


def _real_monotonic() -> Callable[[], float]:
    """Return the monotonic clock even if it is patched: a frozen one would stop every linger.

    freezegun replaces the functions of `time` in all modules, by their identity. A second instance
    of that built-in module has functions of its own.
    """
    spec: ModuleSpec | None = BuiltinImporter.find_spec("time")
    module: Any = None if spec is None else BuiltinImporter.create_module(spec)
    if module is None:
        return time.monotonic
    BuiltinImporter.exec_module(module)
    clock: Callable[[], float] = module.monotonic
    return clock


monotonic = _real_monotonic()
