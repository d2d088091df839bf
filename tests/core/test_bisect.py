"""`isolate`: how often the batch function is called to find the items at fault (contract 5)."""

from __future__ import annotations

import itertools
import math

import pytest

from batchify.future import Failure
from tests.core.driver import run

BAD = [type(f"Bad{item}", (Exception,), {}) for item in range(10)]


@pytest.mark.parametrize("are_alike", [True, False])
@pytest.mark.parametrize("count", range(1, 11))
def test_the_bound_of_isolate_holds_for_all_that_may_be_at_fault(
    count: int, are_alike: bool
) -> None:
    """k at fault of n: at most 2 k log2(n / k) + 2 k further calls, wherever they stand."""
    for size in range(1, count + 1):
        for bad in itertools.combinations(range(count), size):
            calls: list[list[int]] = []

            def function(items: list[int], bad=bad, calls=calls) -> list[int]:  # type: ignore[no-untyped-def]
                calls.append(items)
                for item in items:
                    if item in bad:
                        raise BAD[0 if are_alike else item]
                return items

            outcomes = run(function, list(range(count)), isolate=True).outcomes
            assert len(calls) - 1 <= 2 * size * math.log2(count / size) + 2 * size, bad
            failed = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Failure)]
            assert failed == list(bad) or (are_alike and len(calls) == 7)
