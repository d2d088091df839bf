"""The hand-written batcher on `queue.SimpleQueue`, which is written in C and faster.

It differs from hand_written_threads.py in one point: a worker holds a lock while it fills a batch,
so only one worker at a time does. That costs nothing: a batch stays open until it is full anyway.
The lock is needed because with two consumers `SimpleQueue.get(timeout=)` can block forever on
CPython <= 3.12: the consumer that is woken finds the item gone and the time over, and continues to
wait with a negative timeout, which means an infinite one. If there is one consumer, and it saw the
queue empty just before (`get_nowait`), only an item can wake it.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from typing import Any

from .hand_written_threads import HandWrittenThreads


class HandWrittenSimpleQueue(HandWrittenThreads):
    name = "hand-written SimpleQueue"
    queue_type = queue.SimpleQueue

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.turn = threading.Lock()  # held while taking from the queue
        super().__init__(function, size, linger, workers)

    def work(self) -> None:
        is_closed = False
        while not is_closed:
            batch: list[tuple[Any, Future[Any]]] = []
            with self.turn:
                is_closed = self.fill(batch)
            self.run(batch)

    def fill(self, batch: list[tuple[Any, Future[Any]]]) -> bool:
        """Wait for an item, then for more items; return True if the sentinel came."""
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
