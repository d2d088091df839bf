"""Make tracebacks for callers that print like the original but refer to none of its frames.

The original frames hold the items of every caller, and may belong to generators and coroutines that
are still in use. They are therefore neither handed out nor cleared.
Callers are `copies` and `faults`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, TracebackType

_PACKAGE = __file__.rpartition("outcome")[0]

# Return the traceback of an exception, even if its class overrides `__traceback__`.
traceback_of: Callable[[BaseException], TracebackType | None] = vars(BaseException)[
    "__traceback__"
].__get__


def _never_run() -> Iterator[None]:  # a generator: its frame exists although it never runs
    yield


# The first instruction of a generator creates it; the following ones never run.
_MAKE_GENERATOR = _never_run.__code__.co_code[:2]


def look_alike(code: CodeType) -> CodeType:
    """Return code that never runs, with the names, file and lines of `code`.

    It has as many instructions as `code`, because it shares the line table of `code`: CPython 3.11
    writes beyond the end of its own table if a trace function sees a frame whose code is shorter.
    """
    return _never_run.__code__.replace(
        co_name=code.co_name,
        co_qualname=code.co_qualname,
        co_filename=code.co_filename,
        co_firstlineno=code.co_firstlineno,
        co_linetable=code.co_linetable,  # also has the columns that tracebacks underline
        co_code=_MAKE_GENERATOR * (len(code.co_code) // len(_MAKE_GENERATOR)),
        co_exceptiontable=b"",
    )


def snapshot(
    traceback: TracebackType | None, end: TracebackType | None = None
) -> TracebackType | None:
    """Return a traceback with the same functions, files and lines, without those of batchify.

    Each frame is new: it has the globals of the original frame, no locals and no `f_back`.

    Args:
        traceback: the original, which is not changed.
        end: the first entry to leave out, together with all that follow; None: leave out none.
    """
    entries: list[TracebackType] = []
    while traceback is not None and traceback is not end:
        if not traceback.tb_frame.f_code.co_filename.startswith(_PACKAGE):
            entries.append(traceback)
        traceback = traceback.tb_next
    copied: TracebackType | None = None
    for entry in reversed(entries):
        original = entry.tb_frame
        frame = FunctionType(look_alike(original.f_code), original.f_globals)().gi_frame
        copied = TracebackType(copied, frame, entry.tb_lasti, entry.tb_lineno)
    return copied
