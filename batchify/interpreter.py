"""Tell how the threads of this interpreter run: with a GIL, without one, or as gevent greenlets.

All lock-free code in this package follows one pattern: each of two threads writes its own value,
then reads the other's, and at least one of them must see what the other wrote. The GIL guarantees
that. On a free-threaded build each single step on a list, deque or dict is still atomic, but the
order of steps is not guaranteed, so each thread acquires and releases a lock between its write and
its read: the second one to do so sees everything that the first one wrote before.
Callers are the modules that run threads or read the clock.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib.machinery import BuiltinImporter, ModuleSpec
from typing import Any


def has_gil() -> bool:
    """Return True if this interpreter has a GIL; importing an extension may enable it later."""
    is_enabled = getattr(sys, "_is_gil_enabled", None)  # since 3.13
    return is_enabled is None or bool(is_enabled())


def has_greenlets() -> bool:
    """Return True if gevent has replaced threads by greenlets; this does not import gevent."""
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


# If False, the locks that this package has imported from `threading` block real threads.
BEGAN_WITH_GREENLETS = has_greenlets()

# These versions start no thread after the main thread has ended (gh-113964).
STARTS_NO_THREAD_AT_EXIT = (3, 12) <= sys.version_info[:3] <= (3, 12, 2)


def _real_monotonic() -> Callable[[], float]:
    """Return the real monotonic clock, even if `time` is patched: else no linger would ever end.

    freezegun replaces the functions of `time` in all modules, by identity. A second instance of
    that built-in module has its own functions, which freezegun does not know.
    """
    spec: ModuleSpec | None = BuiltinImporter.find_spec("time")
    module: Any = None if spec is None else BuiltinImporter.create_module(spec)
    if module is None:
        return time.monotonic
    BuiltinImporter.exec_module(module)
    clock: Callable[[], float] = module.monotonic
    return clock


monotonic = _real_monotonic()
