"""Hide existing objects from the garbage collector, so that a collection visits new ones only."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def frozen() -> Iterator[None]:
    """Freeze all objects; thaw them at the end, unless objects were frozen before."""
    was_frozen = gc.get_freeze_count() > 0  # by `conftest`, for all tests
    gc.freeze()
    try:
        yield
    finally:
        if not was_frozen:
            gc.unfreeze()
