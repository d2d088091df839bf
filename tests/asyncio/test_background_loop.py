"""The background loop runs async functions that are called from threads without a loop."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from batchify import batched

# Two threads make async functions, call each once and drop it. The process ends itself if a call
# hangs: a hang would hold its exit as well.
CHURN = """
import os, sys, threading
from batchify import batched

kind, rounds = sys.argv[1], int(sys.argv[2])
sys.setswitchinterval(1e-6)


class Server:
    @batched
    async def ask(self, items):
        return [item + 1 for item in items]


def ask_once():
    if kind == "methods":
        return Server().ask
    @batched
    async def ask(items):
        return [item + 1 for item in items]
    return ask


def dropped_while_called(ask):
    future = ask(1)
    del ask
    return future


def churn():
    for _ in range(rounds):
        ask = ask_once()
        future = dropped_while_called(ask) if kind == "dropped" else ask(1)
        del ask
        assert future.result(240) == 2


threads = [threading.Thread(target=churn) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print("done")
"""


def churn(kind: str, rounds: int) -> None:
    command = [sys.executable, "-W", "error", "-c", CHURN, kind, str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("kind", ["functions", "methods", "dropped"])
def test_async_functions_that_are_made_and_dropped(kind: str) -> None:
    churn(kind, 4000)


@pytest.mark.deep
@pytest.mark.parametrize("kind", ["functions", "methods", "dropped"])
def test_many_async_functions_that_are_made_and_dropped(kind: str) -> None:
    churn(kind, 30_000)


def test_a_batch_that_stops_the_background_loop() -> None:
    @batched(size=1)
    async def stop(items: list[int]) -> list[int]:
        asyncio.get_running_loop().stop()
        await asyncio.sleep(0)
        return items

    @batched
    async def echo(items: list[int]) -> list[int]:
        return items

    first = echo(0)
    assert [stop(n).result() for n in range(3)] == [0, 1, 2]
    assert first.result() == 0
    assert echo(1).result() == 1


def test_a_background_loop_closed_by_other_code() -> None:
    """Its items end in `Closed`, and the next call gets a loop that runs."""
    done = subprocess.run(
        [sys.executable, "-c", CLOSED_LOOP], capture_output=True, text=True, check=False
    )
    assert done.stdout == "Closed\n2\n", done.stderr
    assert done.returncode == 0


CLOSED_LOOP = """
import asyncio
from batchify import Closed, batched

loops = []


@batched(size=1, exit_timeout=0)
async def hang(items):
    loop = asyncio.get_running_loop()
    loops.append(loop)
    # As if another thread had closed it between two runs.
    loop.call_soon(loop.stop)
    loop.is_running = lambda: False
    loop.run_forever = lambda: loop.close()
    await asyncio.Event().wait()


@batched
async def echo(items):
    return items


try:
    hang(1).result()
except Closed as error:
    print(type(error).__name__)
print(echo(2).result())
assert loops[0].is_closed()
"""


@pytest.mark.parametrize("drop", ["function", "instance"])
def test_the_background_loop_goes_with_the_last_function(drop: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LAST, drop], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "gone\n"), done.stderr


LAST = """
import gc, sys, threading
from batchify import batched


class Server:
    @batched
    async def ask(self, items):
        return items


def make():
    if sys.argv[1] == "instance":
        return Server().ask
    @batched
    async def ask(items):
        return items
    return ask


ask, other = make(), make()
assert (ask(1).result(), other(2).result()) == (1, 2)
(thread,) = [one for one in threading.enumerate() if one.name == "batchify:background"]
del ask
assert other(3).result() == 3 and thread.is_alive()
del other
while thread.is_alive():
    gc.collect()  # without a GIL only the collector frees functions
    thread.join(0.01)
print("gone")
"""
