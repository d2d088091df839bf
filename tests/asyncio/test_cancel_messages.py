"""Cancel messages reach every awaiting task; time limits of AnyIO and web frameworks work."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import socket
import subprocess
import sys
import textwrap
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from batchify import BatchFuture, batched

LIMIT = 60.0
LONG = 3600.0

Way = Callable[[Any], Awaitable[object]]


def never(kind: str) -> Any:
    """Return a batched function whose items linger for an hour."""

    def work(items: list[int]) -> list[int]:
        return items

    async def awork(items: list[int]) -> list[int]:
        return items

    return batched(work if kind == "def" else awork, linger=LONG)


@pytest.fixture(params=["def", "async def"])
def f(request: pytest.FixtureRequest) -> Any:
    function = never(request.param)
    yield function
    function.close(cancel=True)


async def amapped(f: Any) -> list[Any]:
    return [one async for one in f.amap([1, 2])]


async def amapped_from_async(f: Any) -> list[Any]:
    async def items() -> AsyncIterator[int]:
        yield 1

    return [one async for one in f.amap(items(), ordered=False)]


async def without_capacity(f: Any) -> Any:
    go_on = asyncio.Event()

    @batched(size=1, capacity=1)
    async def full(items: list[int]) -> list[int]:
        await go_on.wait()
        return items

    try:
        full(1)
        return await full.asubmit(2)
    finally:
        go_on.set()


async def made_in_a_thread(f: Any) -> Any:
    def call() -> None:
        futures.append(f(1))

    futures: list[Any] = []
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return await futures[0]


WAYS: dict[str, Way] = {
    "await": lambda f: f(1),
    "task": lambda f: asyncio.create_task(awaiting(f(1))),
    "gather": lambda f: asyncio.gather(f(1), f(2)),
    "gather with results": lambda f: asyncio.gather(f(1), f(2), return_exceptions=True),
    "wait": lambda f: asyncio.wait([f(1), f(2)]),
    "wait_for": lambda f: asyncio.wait_for(f(1), LONG),
    "shield": lambda f: asyncio.shield(f(1)),
    "asubmit": lambda f: awaiting_both(f.asubmit(1)),
    "amap": amapped,
    "amap of an async iterable": amapped_from_async,
    "asubmit without capacity": without_capacity,
    "made in a thread": made_in_a_thread,
}


async def awaiting(one: Any) -> Any:
    return await one


async def awaiting_both(one: Any) -> Any:
    return await (await one)


@pytest.fixture(params=list(WAYS))
def way(request: pytest.FixtureRequest, f: Any) -> Any:
    return lambda: WAYS[request.param](f)


def test_a_task_is_cancelled_with_a_message(way: Any) -> None:
    async def main() -> None:
        task = asyncio.create_task(awaiting(way()))
        for _ in range(10):
            await asyncio.sleep(0)
        assert task.cancel("why")
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.args == ("why",)

    asyncio.run(main())


# ---- AnyIO ----


def test_an_anyio_scope_ends_the_wait(way: Any) -> None:
    anyio = pytest.importorskip("anyio")

    async def main() -> str:
        with anyio.move_on_after(0.01) as scope:
            await way()
            pytest.fail("it cannot end")
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.01):
                await way()
        await anyio.sleep(0)
        return "alive"

    assert anyio.run(main) == "alive"


def test_an_anyio_task_group_is_cancelled(way: Any) -> None:
    anyio = pytest.importorskip("anyio")

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(awaiting, way())
            await anyio.sleep(0.01)
            group.cancel_scope.cancel()
        with anyio.move_on_after(0.01) as outer:
            with anyio.CancelScope(shield=True), anyio.move_on_after(0.001) as inner:
                await way()
            assert inner.cancelled_caught
        assert not outer.cancelled_caught

    anyio.run(main)


def test_an_error_in_an_anyio_task_group_cancels_the_others(way: Any) -> None:
    anyio = pytest.importorskip("anyio")

    async def fails() -> None:
        await anyio.sleep(0.01)
        raise ValueError("one failed")

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(awaiting, way())
            group.start_soon(fails)

    with pytest.raises(ExceptionGroup) as caught:
        anyio.run(main)
    assert [str(error) for error in caught.value.exceptions] == ["one failed"]


# ---- other threads, other loops ----


def test_result_in_another_thread_has_the_message() -> None:
    f = never("def")

    async def main() -> None:
        future: BatchFuture[int] = f(1)

        def wait() -> Any:
            with pytest.raises(concurrent.futures.CancelledError) as caught:
                future.result()
            return caught.value.args

        waiting = asyncio.create_task(asyncio.to_thread(wait))
        await asyncio.sleep(0)
        future.cancel("why")  # type: ignore[call-arg]
        assert await waiting == ("why",)

    asyncio.run(main())
    f.close(cancel=True)


def test_a_future_of_another_loop() -> None:
    """Its message arrives here; cancelling the task here cancels it there, with the message."""
    f = never("def")

    async def main() -> None:
        theirs = f(1)
        asyncio.get_running_loop().call_later(0.01, theirs.cancel, "theirs")
        with pytest.raises(asyncio.CancelledError) as caught:
            await asyncio.to_thread(asyncio.run, awaiting(theirs))
        assert caught.value.args == ("theirs",)

        theirs = f(2)

        async def limited() -> None:
            task = asyncio.create_task(awaiting(theirs))
            await asyncio.sleep(0)
            task.cancel("ours")
            await task

        with pytest.raises(asyncio.CancelledError) as caught:
            await asyncio.to_thread(asyncio.run, limited())
        assert caught.value.args == ("ours",)
        with pytest.raises(asyncio.CancelledError) as caught:
            await theirs
        assert caught.value.args == ("ours",)

    asyncio.run(main())
    f.close(cancel=True)


def test_a_second_cancel_answers_as_its_model_does() -> None:
    f = never("def")
    in_thread = f(1)
    assert (in_thread.cancel(), in_thread.cancel()) == (True, True)

    async def main() -> None:
        on_loop = f(1)
        assert (on_loop.cancel(), on_loop.cancel()) == (True, False)

    asyncio.run(main())
    f.close(cancel=True)


def test_only_a_cancelled_future_carries_a_message() -> None:
    f = never("def")

    async def main() -> None:
        done, cancelled, plain = f(1), f(2), f(3)
        cancelled.cancel("why")
        plain.cancel()
        await f.aflush()
        assert not done.cancel("too late")
        assert [vars(one) for one in (done, plain)] == [{}, {}]
        assert vars(cancelled) == {"_cancel_message": "why"}

    asyncio.run(main())
    f.close()


# ---- web applications ----


async def served(app: Any) -> int:
    """Call an ASGI application once; return the status."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "http", "method": "GET", "path": "/", "headers": []}, receive, send)
    return int(sent[0]["status"])


def with_limit(app: Any, seconds: float) -> Any:
    """Return an ASGI middleware that answers 504 after `seconds`."""
    import anyio

    async def limited(scope: Any, receive: Any, send: Any) -> None:
        try:
            with anyio.fail_after(seconds):
                await app(scope, receive, send)
        except TimeoutError:
            await send({"type": "http.response.start", "status": 504, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    return limited


def test_a_time_limit_in_an_asgi_middleware(way: Any) -> None:
    anyio = pytest.importorskip("anyio")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await way()

    async def main() -> None:
        assert [await served(with_limit(app, 0.01)) for _ in range(2)] == [504, 504]

    anyio.run(main)


APP = """
    import sys
    import anyio
    import uvicorn
    from fastapi import FastAPI, HTTPException
    from batchify import batched

    @batched(linger=3600)
    async def slow(items: list[int]) -> list[int]:
        return items

    @batched
    async def quick(items: list[int]) -> list[int]:
        return [2 * item for item in items]

    app = FastAPI()

    @app.get("/endpoint/{n}")
    async def endpoint(n: int) -> int:
        try:
            with anyio.fail_after(0.05):
                return await slow(n)
        except TimeoutError:
            raise HTTPException(504, "too slow")

    @app.get("/middleware/{n}")
    async def in_middleware(n: int) -> int:
        return await slow(n)

    @app.get("/quick/{n}")
    async def in_time(n: int) -> int:
        with anyio.fail_after(60):
            return await quick(n)

    class Limit:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            if not scope.get("path", "").startswith("/middleware"):
                return await self.app(scope, receive, send)
            try:
                with anyio.fail_after(0.05):
                    await self.app(scope, receive, send)
            except TimeoutError:
                await send({"type": "http.response.start", "status": 504, "headers": []})
                await send({"type": "http.response.body", "body": b'"late"'})

    app.add_middleware(Limit)
    uvicorn.run(app, fd=int(sys.argv[1]), log_level="warning")
"""


@pytest.mark.deep
def test_time_limits_of_a_served_application() -> None:
    """A FastAPI endpoint and a middleware with a time limit answer 504, except when in time."""
    for module in ("fastapi", "uvicorn", "anyio"):
        pytest.importorskip(module)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port, fd = listening.getsockname()[1], listening.fileno()
        server = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(APP), str(fd)],
            pass_fds=[fd], stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def answer(path: str) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=LIMIT) as got:
                return got.status, json.loads(got.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    try:
        assert answer("quick/4") == (200, 8)
        for n in range(3):
            assert answer(f"endpoint/{n}") == (504, {"detail": "too slow"})
            assert answer(f"middleware/{n}") == (504, "late")
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            many = list(pool.map(answer, ["endpoint/1", "middleware/1", "quick/1"] * 8))
        assert many == [(504, {"detail": "too slow"}), (504, "late"), (200, 2)] * 8
        assert answer("quick/5") == (200, 10)
    finally:
        server.terminate()
        _, errors = server.communicate(timeout=LIMIT)
    assert "Traceback" not in errors


# ---- repr and type of a future ----


def test_the_repr_names_the_function_and_no_item(f: Any) -> None:
    name = f.__qualname__

    async def main() -> None:
        on_loop = f("secret")
        assert repr(on_loop) == f"<BatchFuture of {name}, pending>"
        assert type(on_loop).__name__ == "BatchFuture"
        await f.aflush()
        assert repr(on_loop) == "<BatchFuture, finished>"
        on_loop = f("secret")
        on_loop.cancel("secret")
        assert repr(on_loop) == "<BatchFuture, cancelled>"

    asyncio.run(main())
    in_thread = f("secret")
    assert repr(in_thread) == f"<BatchFuture of {name}, pending>"
    in_thread.cancel()
    assert repr(in_thread) == "<BatchFuture, cancelled>"


def test_the_repr_while_it_runs_and_when_it_failed() -> None:
    started, go_on = threading.Event(), threading.Event()

    @batched(name="insert_users")
    def insert(items: list[int]) -> list[int]:
        started.set()
        go_on.wait()
        raise ValueError("secret")

    future = insert(1)
    assert started.wait(LIMIT)
    assert repr(future) == "<BatchFuture of insert_users, running>"
    begun = time.monotonic()
    with pytest.raises(TimeoutError) as caught:
        future.result(0.25)
    assert time.monotonic() - begun >= 0.2
    assert str(caught.value) == (
        "insert_users: no result within 0.25 s; the item is still queued or running"
    )
    go_on.set()
    assert isinstance(future.exception(float("inf")), ValueError)
    assert repr(future) == "<BatchFuture, failed>"
    insert.close()


def test_await_without_asyncio_says_what_to_do(f: Any) -> None:
    future = f(1)
    with pytest.raises(RuntimeError, match=r"trio\.to_thread\.run_sync") as caught:
        future.__await__().send(None)
    assert f.__qualname__ in str(caught.value)
    future.cancel()
