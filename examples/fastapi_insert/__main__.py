"""Start PostgreSQL and the service, insert from tasks and requests, stop, and compare the rows.

Run it: `python examples/fastapi_insert` (needs PostgreSQL's programs, and requirements.txt)
With a database that is 3 ms away: `python examples/fastapi_insert --delay 0.003 --seconds 1`
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from statistics import median

import httpx
import psycopg
import uvicorn
from app import User, Users, app
from delay import delayed
from postgres import NotInstalledError, scratch

ROUNDS = 3
numbers = count()
received: dict[str, int] = {}  # for each email, the id that its caller received

Insert = Callable[[User], Awaitable[int]]


async def store(insert: Insert) -> None:
    """Insert one more user, and record the id that its caller received."""
    user = User(name="Ada", email=f"{next(numbers)}@example.org")
    received[user.email] = await insert(user)


async def rate(insert: Insert, tasks: int, seconds: float) -> float:
    """Return the rows per second that `tasks` tasks insert, each of which waits for its id."""
    began, before = time.perf_counter(), len(received)

    async def caller() -> None:
        await store(insert)
        while time.perf_counter() < began + seconds:
            await store(insert)

    await asyncio.gather(*(caller() for _ in range(tasks)))
    return (len(received) - before) / (time.perf_counter() - began)


async def compare(name: str, tasks: int, seconds: float, one: Insert, many: Insert) -> None:
    """Measure single and batched inserts in turns; print the median of the ratios."""
    pairs = [[await rate(each, tasks, seconds) for each in (one, many)] for _ in range(ROUNDS)]
    before, after = (median(rates) for rates in zip(*pairs, strict=True))
    gain = median(after / before for before, after in pairs)
    print(f"{name:<20} {before:>7,.0f} -> {after:>7,.0f} rows/s: {gain:.2f}x")


async def distance(connection: psycopg.AsyncConnection) -> float:
    """Return the median time of a round trip to the database, in seconds."""
    times = []
    for _ in range(20):
        began = time.perf_counter()
        await connection.execute("SELECT 1")
        times.append(time.perf_counter() - began)
    return median(times)


@asynccontextmanager
async def served() -> AsyncIterator[tuple[str, uvicorn.Server]]:
    """Serve on a port of this machine until the block ends; yields the URL and the server."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        while not (server.started or serving.done()):  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", server
        finally:
            server.should_exit = True
            await serving


async def load(seconds: float) -> None:
    """Insert by calls and by requests, then stop the service while requests are in flight."""
    async with AsyncExitStack() as stack, served() as (url, server):
        users: Users = app.state.users
        # A client each: one shared client would spend more time on its pool than on the request.
        context = ssl.create_default_context()
        idle = [httpx.AsyncClient(verify=context, timeout=30) for _ in range(100)]
        for client in idle:
            await stack.enter_async_context(client)

        async def send(path: str, user: User) -> httpx.Response:
            client = idle.pop()
            try:
                return await client.post(url + path, json=user.model_dump())
            finally:
                idle.append(client)

        def post(path: str) -> Insert:
            async def insert(user: User) -> int:
                return (await send(path, user)).raise_for_status().json()["id"]

            return insert

        print(f"SELECT 1 takes {await distance(users.connection) * 1000:.2f} ms")
        await compare("200 tasks", 200, seconds, users.insert_one, users.insert)
        await compare("one task", 1, seconds, users.insert_one, users.insert)
        # Server and client share one interpreter, and take most of the time here.
        await compare("50 HTTP clients", 50, seconds, post("/users/per-call"), post("/users"))

        # The request with a known email gets an error; the others of its batch do not.
        known = send("/users", User(name="Eve", email=next(iter(received))))
        answer, *_ = await asyncio.gather(known, *(store(post("/users")) for _ in range(20)))
        assert answer.status_code == 409

        # Stop with requests in flight: accepted items are stored and answered, others are refused.
        last = [asyncio.create_task(store(post("/users"))) for _ in range(100)]
        await asyncio.wait(last, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        ends = await asyncio.gather(*last, return_exceptions=True)
        assert all(end is None or isinstance(end, httpx.TransportError) for end in ends), ends
    stats = users.insert.stats()
    print(f"{stats.succeeded} rows in {stats.batches} batches, {stats.failed} refused")


def main() -> None:
    """Run everything, and compare the ids that callers received with those in the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--delay", type=float, help="seconds of a round trip to the database", default=0
    )
    parser.add_argument("--seconds", type=float, help="length of each measurement", default=0.2)
    options = parser.parse_args()
    try:
        with scratch() as directory, delayed(directory / ".s.PGSQL.5432", options.delay) as port:
            host = f"host=127.0.0.1 port={port}" if options.delay else f"host={directory}"
            os.environ["DATABASE_URL"] = f"{host} user=postgres dbname=postgres"
            asyncio.run(load(options.seconds))
            with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
                stored = dict(connection.execute("SELECT email, id FROM users").fetchall())
    except NotInstalledError as error:
        print(f"!!! SKIPPED fastapi_insert: {error}")
        return
    assert stored == received
    print(f"{len(stored)} rows are stored, each with the id that its caller received")


if __name__ == "__main__":
    main()
