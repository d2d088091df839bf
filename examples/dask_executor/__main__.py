"""Start a Dask cluster of two processes, and correct single words in batches on it.

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
    """Return how long `work` takes; checks that each word is in its place."""
    began = time.perf_counter()
    corrected = work()
    took = time.perf_counter() - began
    assert corrected == right[: len(corrected)]
    return took


def main(client: Client) -> None:
    """Compare batches with a task for each word and with this process, in turns."""
    each = client.get_executor(pure=False)
    methods: dict[str, Callable[[], list[str]]] = {
        "batched": lambda: list(correct.map(wrong)),
        "a task for each word": lambda: list(each.map(nearest, wrong)),
        "in this process": lambda: [nearest(word) for word in wrong],
        "one word, batched": lambda: [correct(wrong[0]).result()],
        "one word, in this process": lambda: [nearest(wrong[0])],
    }
    methods["batched"]()  # the cluster's workers import the module with their first task
    rounds = [{name: seconds(work) for name, work in methods.items()} for _ in range(ROUNDS)]
    print(f"{len(wrong)} words on two processes; batched is")
    for name in "a task for each word", "in this process":
        print(f"{median(took[name] / took['batched'] for took in rounds):.2f}x as fast as {name}")
    gain = median(took["one word, in this process"] / took["one word, batched"] for took in rounds)
    print(f"{gain:.2f}x as fast for a single call of one word: a loss")
    stats = correct.stats()
    print(f"{stats.succeeded} words in {stats.batches} batches")
    correct.close()


if __name__ == "__main__":
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster) as client:
        main(client)
