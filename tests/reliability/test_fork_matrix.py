"""Forked children that exit, at every moment: contract 6."""

from __future__ import annotations

import os
from typing import Any

import pytest

from batchify import batched
from tests import fork_matrix
from tests.reliability.forks import in_child

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")


def expect_no_faults(cells: list[tuple[str, str]], forks: int) -> None:
    assert [pair for pair in fork_matrix.run_all(cells, forks) if pair[1]] == []


@pytest.mark.parametrize("moment", fork_matrix.MOMENTS)
def test_some_of_the_matrix(moment: str) -> None:
    expect_no_faults([cell for cell in fork_matrix.SOME if cell[0] == moment], 2)


@pytest.mark.deep
@pytest.mark.parametrize("moment", fork_matrix.MOMENTS)
def test_the_whole_matrix(moment: str) -> None:
    expect_no_faults([cell for cell in fork_matrix.ALL if cell[0] == moment], 5)


@pytest.mark.deep
def test_many_functions_that_are_gone() -> None:
    """A fork ignores unused functions, and they leave nothing behind."""
    import gc
    import tracemalloc

    from batchify.engine import lifecycle

    def make_many() -> None:
        for n in range(10_000):
            batched(lambda items: items, name="gone")
            batched(name="gone")(awork)
        gc.collect()

    async def awork(items: list[Any]) -> list[Any]:
        return items

    gc.collect()
    engines, hooks = len(lifecycle._engines), len(lifecycle._child_hooks)
    make_many()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        make_many()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 200_000  # 10 bytes for each
    assert len(lifecycle._engines) <= engines
    assert len(lifecycle._child_hooks) == hooks

    assert in_child(lambda: len(lifecycle._engines)) <= engines
