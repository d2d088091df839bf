"""The thread pool of the standard library: one function call per item, `workers` threads."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from .base import THREADS, Rival


class Pool(Rival):
    name = "ThreadPoolExecutor"
    modes = (THREADS,)
    not_in = ("S7",)  # a million calls

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.pool = ThreadPoolExecutor(workers)
        self.one = lambda item: function([item])[0]

    def submit(self, item: Any) -> Future[Any]:
        return self.pool.submit(self.one, item)

    def close(self) -> None:
        self.pool.shutdown()
