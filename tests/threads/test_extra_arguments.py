"""Extra arguments of calls from threads: contract 3."""

from __future__ import annotations

import pytest

from batchify import batched
from tests.limits import LIMIT


def test_only_calls_with_equal_extra_arguments_share_a_batch() -> None:
    seen: list[tuple[list[int], str, int]] = []

    @batched(size=10, linger=None)
    def insert(rows: list[int], table: str, *, level: int = 0) -> list[str]:
        seen.append((rows, table, level))
        return [f"{table}{row}{level}" for row in rows]

    futures = [insert(n, "ab"[n % 2], level=n // 4) for n in range(8)]
    insert.flush(LIMIT)
    assert [x.result(0) for x in futures] == [f"{'ab'[n % 2]}{n}{n // 4}" for n in range(8)]
    assert sorted(seen) == [([0, 2], "a", 0), ([1, 3], "b", 0), ([4, 6], "a", 1), ([5, 7], "b", 1)]


def test_unhashable_extra_arguments_are_refused_for_that_caller_only() -> None:
    @batched(linger=None)
    def insert(rows: list[int], table: object) -> list[int]:
        return rows

    good = insert(1, "t")
    with pytest.raises(TypeError, match="hashable"):
        insert(2, [])
    insert.flush(LIMIT)
    assert good.result(0) == 1
    assert insert.stats().rejected == 1


def test_extra_arguments_that_the_function_does_not_take() -> None:
    @batched
    def insert(rows: list[int]) -> list[int]:
        return rows

    with pytest.raises(TypeError, match="no extra arguments"):
        insert(1, 2)
    with pytest.raises(TypeError):
        insert()  # type: ignore[call-arg]
    assert insert(1).result(LIMIT) == 1
