"""The `contextvars` contexts of callers and of batch functions: contract 4 and 6."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from batchify import Retry, batched, observe
from tests.leaks import Oops
from tests.manual import LIMIT, in_thread, until

who: contextvars.ContextVar[Any] = contextvars.ContextVar("who", default="nobody")


class Passed:
    """A value of a context that can be referenced weakly."""


def test_the_function_runs_in_an_empty_context() -> None:
    seen: dict[str, set[Any]] = {}
    tried: set[int] = set()

    def note(where: str) -> None:
        seen.setdefault(where, set()).add(who.get())
        who.set("the batch")  # not seen by any later one

    def work(items: list[int]) -> list[Any]:
        note("def")
        return again(items)

    async def awork(items: list[int]) -> list[Any]:
        note("async def")
        await asyncio.sleep(0)
        return again(items)

    def again(items: list[int]) -> list[Any]:
        found = [Retry() if n not in tried and n % 2 else n for n in items]
        tried.update(items)
        if 3 in items and len(items) > 1:
            raise Oops
        return found

    def gen(items: list[int]) -> Iterator[int]:
        note("generator")
        yield from items
        assert who.get() == "the batch"

    async def agen(items: list[int]) -> AsyncIterator[int]:
        note("async generator")
        for n in items:
            yield n

    def handle(failure: Any) -> Any:
        note("on_error")

    functions = [
        batched(work, size=4, isolate=True, on_error=handle),
        batched(awork, size=4, isolate=True, on_error=handle),
        batched(gen),
        batched(agen),
    ]
    end = observe(lambda event: note("observer"))
    called: list[Any] = []

    def caller(f: Any, n: int) -> None:
        who.set(n)
        future = f(n)
        future.add_done_callback(lambda _: called.append((who.get(), n)))
        future.exception(LIMIT)
        assert who.get() == n

    async def acaller(f: Any, n: int) -> None:
        who.set(n)
        future = f(n)
        future.add_done_callback(lambda _: called.append((who.get(), n)))
        await asyncio.wait([future])
        assert who.get() == n

    async def main(f: Any) -> None:
        who.set("the loop")
        await asyncio.gather(*(acaller(f, n) for n in range(8)))

    for f in functions:
        tried.clear()
        for one in [in_thread(contextvars.Context().run, caller, f, n) for n in range(8)]:
            one.result()
        contextvars.Context().run(asyncio.run, main(f))
        f.close()

    def fail(items: list[int]) -> None:
        raise Oops

    handled = batched(fail, size=2, linger=None, on_error=handle)
    for future in [handled(n) for n in range(2)]:
        assert isinstance(future.exception(LIMIT), Oops)
    handled.close()
    end()
    until(lambda: len(called) == 16 * len(functions))
    assert all(context == n for context, n in called)
    # Batches set it too; the handler and the observers of a batch may see its value.
    assert seen.pop("on_error") <= {"nobody", "the batch"}
    assert seen.pop("observer") <= {"nobody", "the batch"}
    expected = {"def", "async def", "generator", "async generator"}
    assert seen == {where: {"nobody"} for where in expected} or {
        where: contexts - {"nobody", "the batch"} for where, contexts in seen.items()
    } == {where: set() for where in expected}


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_an_idle_engine_keeps_no_context_of_a_caller(is_async: bool) -> None:
    async def awork(items: list[Any]) -> list[Any]:
        return items

    f: Any = batched(awork if is_async else lambda items: items, linger=0.001)

    def kept(call: Callable[[], Any]) -> Any:
        import weakref

        value = Passed()
        context = contextvars.Context()
        context.run(who.set, value)
        context.run(call)
        return weakref.ref(value)

    async def one() -> None:
        assert await f(1) == 1
        assert await f.options(deadline=60)(1) == 1

    def start(loop: asyncio.AbstractEventLoop) -> None:
        loop.run_until_complete(loop.create_task(one()))

    gc.collect()
    gc.disable()
    try:
        value = kept(lambda: f(1).result(LIMIT))
        until(lambda: value() is None)
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            value = kept(lambda: start(loop))
            until(lambda: runner.run(asyncio.sleep(0)) or value() is None)
    finally:
        gc.enable()


@pytest.mark.skipif(sys.version_info < (3, 14), reason="thread_inherit_context came with 3.14")
def test_with_threads_that_inherit_their_context() -> None:
    tests = ["the_function_runs_in_nobodys_context", "an_idle_engine_keeps_no_context_of_a_caller"]
    command = [sys.executable, "-X", "thread_inherit_context=1", "-m", "pytest", "-q"]
    ran = subprocess.run(
        [*command, "-n", "0", "-p", "no:cacheprovider", __file__, "-k", " or ".join(tests)],
        capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
