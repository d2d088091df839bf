"""Keys and items whose hash or comparison fails later."""

from __future__ import annotations

from typing import Any


def fickle(detail: str) -> Any:
    """Return a class of objects whose `__hash__` or `__eq__` raises while `is_good` is False.

    Args:
        detail: "hash" or "eq".
    """

    class Fickle:
        is_good = True

        def __hash__(self) -> int:
            if detail == "hash" and not self.is_good:
                raise LookupError("hash")
            return 1

        def __eq__(self, other: object) -> bool:
            if detail == "eq" and not self.is_good:
                raise LookupError("eq")
            return self is other

    return Fickle
