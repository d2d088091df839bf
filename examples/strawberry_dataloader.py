"""Avoid N+1 queries in GraphQL with strawberry's DataLoader, or with a batched function.

Each request has its own DataLoader, which caches until the request ends. It loads with
`author.batch`, the undecorated function. With `await author(key)` in a resolver, no loader is
needed, and requests that come at the same time share a query. There is no cache; with `dedupe`,
each key of a batch is queried once.

Run it: `python examples/strawberry_dataloader.py` (needs strawberry-graphql)
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import strawberry
from strawberry.dataloader import DataLoader

from batchify import batched

AUTHORS, BOOKS, REQUESTS, ROUNDS = 20, 100, 10, 3

# SQLite would block the event loop, so it runs in a thread of its own.
thread = ThreadPoolExecutor(1)
database = sqlite3.connect(":memory:", check_same_thread=False)
database.execute("CREATE TABLE authors (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
rows = [(number, f"Author {number}") for number in range(AUTHORS)]
database.executemany("INSERT INTO authors VALUES (?, ?)", rows)
queries = 0


@batched(size=1000, dedupe=True, executor=thread)
def author(keys: list[int]) -> dict[int, str]:
    """Load many authors with one query; the caller of an unknown key gets `MissingResult`."""
    global queries
    queries += 1
    marks = ", ".join("?" for _ in keys)
    return dict(database.execute(f"SELECT id, name FROM authors WHERE id IN ({marks})", keys))


async def load(keys: list[int]) -> list[str]:
    """Return a value for each key in order, as DataLoader expects."""
    names = await asyncio.get_running_loop().run_in_executor(thread, author.batch, keys)
    return [names[key] for key in keys]


@strawberry.type
class Book:
    """A book with three fields that load its author in different ways."""

    title: str
    author_id: strawberry.Private[int]

    @strawberry.field
    async def single(self) -> str:
        """Run one query for each book."""
        return (await load([self.author_id]))[0]

    @strawberry.field
    async def loaded(self, info: strawberry.Info) -> str:
        """Load with the DataLoader of this request."""
        return await info.context["authors"].load(self.author_id)

    @strawberry.field
    async def batched(self) -> str:
        """Call the batched function."""
        return await author(self.author_id)


@strawberry.type
class Query:
    """The root of the schema."""

    @strawberry.field
    def books(self) -> list[Book]:
        """Return all books."""
        return [Book(title=f"Book {n}", author_id=n % AUTHORS) for n in range(BOOKS)]


schema = strawberry.Schema(Query)


async def request(field: str) -> None:
    """Query the authors of all books through one field."""
    context = {"authors": DataLoader(load_fn=load)}
    answer = await schema.execute(f"{{ books {{ title {field} }} }}", context_value=context)
    assert not answer.errors, answer.errors
    names = [book[field] for book in answer.data["books"]]
    assert names == [f"Author {n % AUTHORS}" for n in range(BOOKS)]


async def cost(field: str) -> tuple[int, float]:
    """Return the queries and the seconds that concurrent requests take."""
    before, began = queries, time.perf_counter()
    await asyncio.gather(*(request(field) for _ in range(REQUESTS)))
    return queries - before, time.perf_counter() - began


async def main() -> None:
    """Compare the three fields, in turns."""
    fields = "single", "loaded", "batched"
    rounds = [{field: await cost(field) for field in fields} for _ in range(ROUNDS)]
    print(f"{REQUESTS} requests at once, for the authors of {BOOKS} books each")
    for field in fields:
        count = median(turn[field][0] for turn in rounds)
        gain = median(turn["single"][1] / turn[field][1] for turn in rounds)
        print(f"{field:<8} {count:>5.0f} queries, {gain:.2f}x as fast as single")
    assert all(turn["single"][0] == BOOKS * REQUESTS for turn in rounds)
    assert all(turn["loaded"][0] == REQUESTS for turn in rounds)


if __name__ == "__main__":
    asyncio.run(main())
