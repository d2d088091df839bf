"""The hand-written engine on the faster `queue.SimpleQueue`, which is written in C.

The rest is that of hand_written_threads.py, but only one worker at a time fills a batch, while
it holds a lock; a batch stays open as long as that, so nothing is lost by it. The lock is there
because with two consumers `SimpleQueue.get(timeout=)` can block for ever on CPython <= 3.12:
the one that was woken finds the item gone and the time over, and waits on with a negative, that
is, infinite timeout. With one consumer that saw the queue empty just before (`get_nowait`),
nothing but an item wakes it.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from typing import Any

from .base import THREADS, Rival


class HandWrittenSimpleQueue(Rival):
    name = "hand-written SimpleQueue"
    ways = (THREADS,)

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.function, self.size, self.linger = function, size, linger
        self.queue: queue.SimpleQueue[tuple[Any, Future[Any]] | None] = queue.SimpleQueue()
        self.turn = threading.Lock()  # to take from the queue
        self.threads = [threading.Thread(target=self.work, daemon=True) for _ in range(workers)]
        for thread in self.threads:
            thread.start()

    def submit(self, item: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.queue.put((item, future))
        return future

    def close(self) -> None:
        for _ in self.threads:
            self.queue.put(None)
        for thread in self.threads:
            thread.join()

    def work(self) -> None:
        is_closed = False
        while not is_closed:
            batch: list[tuple[Any, Future[Any]]] = []
            with self.turn:
                is_closed = self.fill(batch)
            self.run(batch)

    def fill(self, batch: list[tuple[Any, Future[Any]]]) -> bool:
        """Wait for an item, then for company; True when the sentinel came."""
        entry = self.queue.get()
        deadline = time.monotonic() + self.linger
        while entry is not None:
            batch.append(entry)
            if len(batch) == self.size:
                return False
            try:
                entry = self.queue.get_nowait()
            except queue.Empty:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                try:
                    entry = self.queue.get(timeout=remaining)
                except queue.Empty:
                    return False
        return True

    def run(self, batch: list[tuple[Any, Future[Any]]]) -> None:
        batch = [entry for entry in batch if entry[1].set_running_or_notify_cancel()]
        if not batch:
            return
        try:
            results = self.function([item for item, _ in batch])
            for (_, future), result in zip(batch, results, strict=True):
                future.set_result(result)
        except BaseException as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
