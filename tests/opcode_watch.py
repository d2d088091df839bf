"""Watch every opcode of the package, with the tool that each CPython version offers.

Up to 3.11 that is a trace function. Since 3.12 a trace function misses most opcodes, so
`sys.monitoring` is used.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib
import os
import pkgutil
import sys
import sysconfig
import threading
from collections.abc import Callable
from types import CodeType, FrameType, FunctionType
from typing import Any, ClassVar

import batchify

PACKAGE = os.path.dirname(batchify.__file__)
See = Callable[[FrameType], Any]
IS_OLD = sys.version_info < (3, 12)
# Without a GIL it reports no opcode after it was switched off once (3.13.15).
HAS_MONITORING = not IS_OLD and not sysconfig.get_config_var("Py_GIL_DISABLED")
SEES_ALL = IS_OLD or HAS_MONITORING


def of_c(name: str, *types: Any) -> Any:
    """Return CPython's C function of that name, as a callback for opcodes: it gets more arguments
    than it takes."""
    function = ctypes.PyDLL(None)[name]
    function.argtypes = types + (ctypes.py_object,) * (2 if HAS_MONITORING else 3)
    function.restype = None
    return function


def is_ours(code: CodeType) -> bool:
    return code.co_filename.startswith(PACKAGE)


class _Watch:
    """Calls `see(frame)` at each opcode; if it returns a function, calls that once at the next one.

    That function must be written in C, because no signal is handled in C code. Only one watch can
    be active.
    """

    current: ClassVar[_Watch | None] = None

    def __init__(self, see: See) -> None:
        self.see = see
        _Watch.current = self

    @staticmethod
    def end() -> None:
        """Stop the previous watch."""
        if _Watch.current is not None:
            _Watch.current.stop()

    def start(self) -> None:
        """Start the watch, at least in this thread."""
        raise NotImplementedError

    def start_in_new_threads(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        """Stop the watch, at least in this thread."""
        raise NotImplementedError


class Tracing(_Watch):
    """Watches by a trace function."""

    is_on = False
    thread = 0  # the ident of the new thread that is watched

    def start(self) -> None:
        self.is_on = True
        sys.settrace(self._trace)

    def start_in_new_threads(self) -> None:
        self.is_on = True
        threading.settrace(self._trace_one)

    def stop(self) -> None:
        self.is_on = False
        threading.settrace(None)  # type: ignore[arg-type]
        sys.settrace(None)
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            frame.f_trace = None
            frame = frame.f_back

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not self.is_on or not is_ours(frame.f_code):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event != "opcode":
            return self._trace
        act = self.see(frame)
        if not self.is_on:
            return None
        if act is None:
            return self._trace
        sys.settrace(_ignore)
        return act

    def _trace_one(self, frame: FrameType, event: str, arg: Any) -> Any:
        """Trace the first worker, and no other thread.

        In CPython 3.11 a traced thread cannot enter a function while an asynchronous exception is
        pending in another thread, because it keeps checking for its own. If it holds a lock that
        the other thread waits for, neither continues.
        """
        if not self.thread and threading.current_thread().name.startswith("batchify:"):
            self.thread = threading.get_ident()
        if threading.get_ident() == self.thread:
            return self._trace(frame, event, arg)
        sys.settrace(None)
        return None


_ignore = functools.partial(sys.audit, "tests.opcodes")  # C functions too


class Monitoring(_Watch):
    """Watches by `sys.monitoring`, which covers all threads."""

    TOOL = 4

    def start(self) -> None:
        self._call(self._told)

    start_in_new_threads = start

    def stop(self) -> None:
        self._call(None)

    def _call(self, function: Any) -> None:
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
        monitoring.register_callback(self.TOOL, monitoring.events.INSTRUCTION, function)

    def _told(self, _: CodeType, __: int) -> None:
        act = self.see(sys._getframe(1))
        if act is not None:
            self._call(act)

    @classmethod
    def set_up(cls, is_on: bool) -> None:
        """Switch the events for the package's opcodes on or off."""
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
        if is_on:
            monitoring.use_tool_id(cls.TOOL, "tests.interrupts")
        for code in codes():
            events = monitoring.events.INSTRUCTION if is_on else 0
            monitoring.set_local_events(cls.TOOL, code, events)
        if not is_on:
            monitoring.free_tool_id(cls.TOOL)


def codes() -> set[CodeType]:
    """Return the code of all functions of the package, including nested ones."""
    for module in pkgutil.walk_packages(batchify.__path__, "batchify."):
        if not module.name.endswith(("__main__", "pytest_plugin")):
            with contextlib.suppress(ImportError):  # of an optional dependency
                importlib.import_module(module.name)
    found: set[CodeType] = set()
    gc.unfreeze()  # frozen objects are not listed
    left = [one.__code__ for one in gc.get_objects() if isinstance(one, FunctionType)]
    gc.freeze()
    while left:
        code = left.pop()
        if is_ours(code) and code not in found:
            found.add(code)
            left += [one for one in code.co_consts if isinstance(one, CodeType)]
    return found


Watch = Monitoring if HAS_MONITORING else Tracing
