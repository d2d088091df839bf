"""Start a Dask cluster of two processes, and let callers of single words share its tasks.

Run it: `python examples/dask_executor` (needs distributed)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from app import WORDS, correct, nearest
from distributed import Client, LocalCluster

ROUNDS = 3
wrong = [word[:-1] + "?" for word in WORDS] * 2
right = WORDS * 2


def seconds(work: Callable[[], list[str]]) -> float:
    """How long it takes, and whether each word came back to its place."""
    began = time.perf_counter()
    corrected = work()
    took = time.perf_counter() - began
    assert corrected == right[: len(corrected)]
    return took


def main(client: Client) -> None:
    """The same words in turns: each a task of its own, in batches, and in this process."""
    each = client.get_executor(pure=False)
    ways: dict[str, Callable[[], list[str]]] = {
        "batched": lambda: list(correct.map(wrong)),
        "a task for each word": lambda: list(each.map(nearest, wrong)),
        "in this process": lambda: [nearest(word) for word in wrong],
        "one word, batched": lambda: [correct(wrong[0]).result()],
        "one word, in this process": lambda: [nearest(wrong[0])],
    }
    ways["batched"]()  # The cluster's workers import the module with their first task.
    rounds = [{way: seconds(work) for way, work in ways.items()} for _ in range(ROUNDS)]
    print(f"{len(wrong)} words on two processes; batched is")
    for way in "a task for each word", "in this process":
        print(f"{median(took[way] / took['batched'] for took in rounds):.2f}x as fast as {way}")
    alone = median(took["one word, in this process"] / took["one word, batched"] for took in rounds)
    print(f"{alone:.2f}x as fast for a lone call of one word: a loss")
    stats = correct.stats()
    print(f"{stats.succeeded} words in {stats.batches} batches")
    correct.close()


if __name__ == "__main__":
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster) as client:
        main(client)
