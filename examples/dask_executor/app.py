"""The batch function. The cluster's workers import this module too; that starts nothing there."""

from __future__ import annotations

import difflib
import random
import string

from distributed import get_client

from batchify import batched

chance = random.Random(2026)
WORDS = ["".join(chance.choices(string.ascii_lowercase, k=8)) for _ in range(50)]


def nearest(word: str) -> str:
    """Return the most similar word of the list; takes milliseconds of pure Python."""
    return difflib.get_close_matches(word, WORDS, n=1, cutoff=0)[0]


# The first call creates the executor. `pure=False`: Dask must run a batch again even if it is equal
# to an earlier one.
@batched(size=25, workers=4, executor=lambda: get_client().get_executor(pure=False))
def correct(words: list[str]) -> list[str]:
    """Correct many words on a worker of the cluster."""
    return [nearest(word) for word in words]
