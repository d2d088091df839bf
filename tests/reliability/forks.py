"""Fork and ask the child, for the tests of forks."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import pickle
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from batchify import BatchFuture, Forked, batched
from tests.limits import LIMIT
from tests.manual import until


def in_child(work: Callable[[], Any]) -> Any:
    """Fork, call `work()` in the child, and return its result; fail with its error."""
    read, write = os.pipe()
    faulthandler.cancel_dump_traceback_later()  # its thread would be missed in a grandchild
    child = os.fork()
    if not child:
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        try:
            try:
                told = (True, work())
            except BaseException:
                told = (False, traceback.format_exc())
            os.write(write, pickle.dumps(told))
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    assert told, "the child hung, or died"
    is_done, result = pickle.loads(told)
    assert is_done, result
    return result


def ends_of(futures: list[BatchFuture[Any]]) -> list[str]:
    """Return how `futures` ended, asked without waiting, in every way."""
    ends = []
    for future in futures:
        assert future.done()
        assert not future.cancel()
        assert not future.running()
        error = future.exception(0)
        with pytest.raises(Forked) as caught:
            future.result(0)
        assert caught.value is error
        ends.append(type(error).__name__)
    return ends


class Used:
    """A used function, and the items that it ran in this process.

    Its gate is a flag, because a thread that the child lacks might hold a lock.
    """

    def __init__(self, kind: str = "def", **options: Any) -> None:
        self.ran: list[Any] = []
        self.is_open = True

        def work(items: list[Any]) -> list[Any]:
            self.ran += items
            while not self.is_open:
                time.sleep(0.001)
            return [("done", item) for item in items]

        async def awork(items: list[Any]) -> list[Any]:
            self.ran += items
            while not self.is_open:
                await asyncio.sleep(0.001)
            return [("done", item) for item in items]

        self.f = batched(work if kind == "def" else awork, **options)
        future = self.f("used")
        self.f.flush(LIMIT)
        assert future.result(0) == ("done", "used")

    def shut(self, *items: Any) -> list[Any]:
        """Submit `items` with the gate shut; return their futures once a batch runs."""
        self.is_open = False
        futures = [self.f(item) for item in items]
        until(lambda: len(self.ran) > 1)
        return futures

    def works_in_child(self) -> None:
        """Check that the child's engine is new and empty, and runs the child's items only."""
        f = self.f
        assert f.stats() == batched(lambda items: items).stats()
        self.is_open = True
        before = len(self.ran)
        futures = [f(("child", n)) for n in range(3)]
        f.flush(LIMIT)
        assert [x.result(0) for x in futures] == [("done", ("child", n)) for n in range(3)]
        assert self.ran[before:] == [("child", n) for n in range(3)]
        assert f.stats().accepted == f.stats().succeeded == 3
