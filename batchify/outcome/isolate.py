"""`isolate`: halve what fails, until only the items at fault are left."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from .attempt import Lost, attempt
from .talk import Ask, Give, Work


def isolate(work: Work, items: list[Any], lost: Lost) -> Generator[Ask | Give, Any, list[Lost]]:
    """Run the halves of what failed, and their halves; gives what failed in the end, in order.

    Level by level, so that an outage is told from items at fault before much was called: when
    all four quarters fail alike, it is nobody's fault. k items at fault of n cost at most
    2 k log2(n / k) + 2 k further calls (group testing by binary splitting: Dorfman 1943, Hwang
    1972).
    """
    final: list[Lost] = []
    level = [lost]
    depth = 0
    while level:
        below: list[Lost] = []
        for place, piece in enumerate(level):
            if piece.is_stopped:
                return _in_order(final + level[place:] + below)
            if len(piece.places) == 1 or not piece.has_raised:
                final.append(piece)
                continue
            first, second = _halves(piece.places)
            failed = yield from attempt(work, items, first)
            if failed is not None:
                below.append(failed)
            elif len(second) > 1:  # then this one is at fault: no need to ask
                below.append(piece._replace(places=second))
                continue
            failed = yield from attempt(work, items, second)
            if failed is not None:
                below.append(failed)
        depth += 1
        if depth == 2 and len(below) == 4 and len({type(p.failure.error) for p in below}) == 1:
            return below
        level = below
    return _in_order(final)


def _halves(places: range) -> tuple[range, range]:
    middle = len(places) // 2
    return places[:middle], places[middle:]


def _in_order(pieces: list[Lost]) -> list[Lost]:
    return sorted(pieces, key=lambda piece: piece.places.start)
