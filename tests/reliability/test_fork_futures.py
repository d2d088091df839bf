"""Copies of the parent's futures in a forked child: contract 6."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
from typing import Any

import pytest

from batchify import Forked
from tests.limits import LIMIT
from tests.manual import in_thread
from tests.reliability.forks import Used, in_child

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")


def test_callbacks_and_waiters_of_the_parent_stay_there() -> None:
    used = Used(linger=1000)
    future = used.f(1)
    called: list[int] = []
    future.add_done_callback(lambda _: called.append(os.getpid()))
    waiter = in_thread(future.result)

    def child() -> Any:
        used.works_in_child()
        late: list[str] = []
        future.add_done_callback(lambda done: late.append(type(done.exception(0)).__name__))
        return called, late

    assert in_child(child) == ([], ["Forked"])
    used.f.flush(LIMIT)
    assert waiter.result() == ("done", 1)
    assert called == [os.getpid()]


def test_copied_futures_are_done_for_every_reader() -> None:
    used = Used(linger=1000)
    futures = [used.f(n) for n in range(3)]
    wait = concurrent.futures.wait
    assert not wait(futures[:2], 0).done  # concurrent.futures looks at these two already

    async def await_them() -> list[Any]:
        return await asyncio.gather(
            *(asyncio.wrap_future(future) for future in futures), return_exceptions=True
        )

    async def await_one() -> str:
        try:
            return await futures[0]
        except Forked as error:
            return type(error).__name__

    def child() -> Any:
        done = len(wait(futures, LIMIT).done)
        ends = [type(error).__name__ for error in asyncio.run(await_them())]
        return done, ends, asyncio.run(await_one())

    assert in_child(child) == (3, ["Forked"] * 3, "Forked")
    used.f.flush(LIMIT)
    assert len(wait(futures, LIMIT).done) == 3


def test_forked_has_its_own_message() -> None:
    used = Used(linger=1000)
    future = used.f("secret-item")

    def child() -> Any:
        error = future.exception(0)
        return str(error), error is future.exception(0)

    text, is_same = in_child(child)
    assert "parent" in text
    assert "secret" not in text
    assert is_same
    used.f.flush(LIMIT)
