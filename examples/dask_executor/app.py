"""What runs on the cluster. Its workers import this module too, which starts nothing there."""

from __future__ import annotations

import difflib
import random
import string

from distributed import get_client

from batchify import batched

chance = random.Random(2026)
WORDS = ["".join(chance.choices(string.ascii_lowercase, k=8)) for _ in range(50)]


def nearest(word: str) -> str:
    """The word of the list that is most like this one: milliseconds of pure Python."""
    return difflib.get_close_matches(word, WORDS, n=1, cutoff=0)[0]


# Called by the first call; `pure=False`: a batch that is equal to an earlier one runs, too.
@batched(size=25, workers=4, executor=lambda: get_client().get_executor(pure=False))
def correct(words: list[str]) -> list[str]:
    """Many of them, on a worker of the cluster."""
    return [nearest(word) for word in words]
