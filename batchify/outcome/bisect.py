"""`isolate`: bisect a failed batch until only the items at fault have failed.

Only parts for which the function raised are tried again.
The caller is `execution`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from .attempt import FailedPart, attempt
from .protocol import BatchSpec, Call, Settle


def bisect(
    spec: BatchSpec, items: list[Any], failed: FailedPart
) -> Generator[Call | Settle, Any, list[FailedPart]]:
    """Run the halves of the failed part, then their halves; return what still fails, in order.

    The search goes level by level, so that it detects an outage after few calls: if all four
    quarters fail with the same type of error, no single item is at fault and the search stops.
    With k items at fault among n it makes at most 2 k log2(n / k) + 2 k calls (group testing by
    binary splitting: Dorfman 1943, Hwang 1972).
    """
    final: list[FailedPart] = []
    level = [failed]
    depth = 0
    while level:
        below: list[FailedPart] = []
        for index, part in enumerate(level):
            if part.is_stopped:
                return _in_order(final + level[index:] + below)
            if len(part.positions) == 1 or not part.has_raised:
                final.append(part)
                continue
            first, second = _halves(part.positions)
            failed_half = yield from attempt(spec, items, first)
            if failed_half is not None:
                below.append(failed_half)
            elif len(second) > 1:  # the first half succeeded, so the second one must fail
                below.append(part._replace(positions=second))
                continue
            failed_half = yield from attempt(spec, items, second)
            if failed_half is not None:
                below.append(failed_half)
        depth += 1
        if depth == 2 and len(below) == 4 and len({type(p.failure.error) for p in below}) == 1:
            return below
        level = below
    return _in_order(final)


def _halves(positions: range) -> tuple[range, range]:
    middle = len(positions) // 2
    return positions[:middle], positions[middle:]


def _in_order(parts: list[FailedPart]) -> list[FailedPart]:
    return sorted(parts, key=lambda part: part.positions.start)
