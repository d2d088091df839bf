"""The batcher one would write oneself: a queue, a future per item, and some worker threads.

It is the reference for all other rivals, so it is simple but good: it takes queued items without a
timeout, counts the linger from the first item of the batch, survives errors and cancelled futures,
and is closed by one sentinel per worker.

`queue.Queue`, not the faster `queue.SimpleQueue`: with two consumers, `SimpleQueue.get(timeout=)`
can block forever on CPython <= 3.12.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from typing import Any

from .base import THREADS, Rival


class HandWrittenThreads(Rival):
    name = "hand-written threads"
    modes = (THREADS,)
    queue_type: Any = queue.Queue

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.function, self.size, self.linger = function, size, linger
        self.queue: queue.Queue[tuple[Any, Future[Any]] | None] = self.queue_type()
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
        while (entry := self.queue.get()) is not None:
            batch = [entry]
            is_closed = self.fill(batch)
            self.run(batch)
            if is_closed:
                return

    def fill(self, batch: list[tuple[Any, Future[Any]]]) -> bool:
        """Wait for more items, until the batch is full or the linger is over.

        Return True if the sentinel came.
        """
        deadline = time.monotonic() + self.linger
        while len(batch) < self.size:
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
            if entry is None:
                return True
            batch.append(entry)
        return False

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
