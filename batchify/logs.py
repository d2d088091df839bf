"""What the log lines of batchify have in common.

Nothing here reads an item, a result or the arguments of an exception.
Callers are all modules that log an error of the user's code.
"""

from __future__ import annotations

import os
from types import TracebackType

_BATCHIFY = os.path.dirname(__file__) + os.sep
_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep


def location_of(error: BaseException) -> str:
    """Return where `error` was raised, as "app.py:41", or "no traceback".

    The innermost frame counts. Frames of the standard library and of installed packages are
    skipped, because the line that called them says more, unless there is no other frame.
    """
    found = None
    is_user_code = False
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        if not filename.startswith(_BATCHIFY):
            is_own = not _is_library(filename)
            if is_own or not is_user_code:
                found = filename, traceback.tb_lineno
            is_user_code = is_user_code or is_own
        traceback = traceback.tb_next
    if found is None:
        return "no traceback"
    filename, line = found
    return f"{os.path.basename(filename)}:{line}"


def _is_library(filename: str) -> bool:
    if filename.startswith((_STANDARD_LIBRARY, "<frozen ")):
        return True
    return "site-packages" in filename or "dist-packages" in filename
