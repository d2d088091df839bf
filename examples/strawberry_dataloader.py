"""GraphQL without N+1 queries, in two ways: strawberry's DataLoader, and a batched function.

The DataLoader is made for each request, and caches for as long as that lasts; it loads with
`author.batch`, the undecorated function. `await author(key)` in a resolver needs no loader, and
requests that come at the same time share a query; it caches nothing (`dedupe`: equal keys of a
batch are asked for once).

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

# SQLite would block the loop, so it has a thread of its own.
thread = ThreadPoolExecutor(1)
database = sqlite3.connect(":memory:", check_same_thread=False)
database.execute("CREATE TABLE authors (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
rows = [(number, f"Author {number}") for number in range(AUTHORS)]
database.executemany("INSERT INTO authors VALUES (?, ?)", rows)
queries = 0


@batched(size=1000, dedupe=True, executor=thread)
def author(keys: list[int]) -> dict[int, str]:
    """The names of many authors, by one query; who asks for an unknown one gets `MissingResult`."""
    global queries
    queries += 1
    marks = ", ".join("?" for _ in keys)
    return dict(database.execute(f"SELECT id, name FROM authors WHERE id IN ({marks})", keys))


async def load(keys: list[int]) -> list[str]:
    """What a DataLoader wants: a value for each key, in order."""
    names = await asyncio.get_running_loop().run_in_executor(thread, author.batch, keys)
    return [names[key] for key in keys]


@strawberry.type
class Book:
    """A book, and three ways to its author."""

    title: str
    author_id: strawberry.Private[int]

    @strawberry.field
    async def alone(self) -> str:
        """A query for each book."""
        return (await load([self.author_id]))[0]

    @strawberry.field
    async def loaded(self, info: strawberry.Info) -> str:
        """By the DataLoader of this request."""
        return await info.context["authors"].load(self.author_id)

    @strawberry.field
    async def batched(self) -> str:
        """By a call of its own."""
        return await author(self.author_id)


@strawberry.type
class Query:
    """What one may ask for."""

    @strawberry.field
    def books(self) -> list[Book]:
        """All books."""
        return [Book(title=f"Book {n}", author_id=n % AUTHORS) for n in range(BOOKS)]


schema = strawberry.Schema(Query)


async def request(way: str) -> None:
    """One request, for the authors of all books."""
    context = {"authors": DataLoader(load_fn=load)}
    answer = await schema.execute(f"{{ books {{ title {way} }} }}", context_value=context)
    assert not answer.errors, answer.errors
    names = [book[way] for book in answer.data["books"]]
    assert names == [f"Author {n % AUTHORS}" for n in range(BOOKS)]


async def cost(way: str) -> tuple[int, float]:
    """How many queries, and how many seconds, some requests at once take."""
    before, began = queries, time.perf_counter()
    await asyncio.gather(*(request(way) for _ in range(REQUESTS)))
    return queries - before, time.perf_counter() - began


async def main() -> None:
    """Each way in turns."""
    ways = "alone", "loaded", "batched"
    rounds = [{way: await cost(way) for way in ways} for _ in range(ROUNDS)]
    print(f"{REQUESTS} requests at once, for the authors of {BOOKS} books each")
    for way in ways:
        asked = median(turn[way][0] for turn in rounds)
        gain = median(turn["alone"][1] / turn[way][1] for turn in rounds)
        print(f"{way:<8} {asked:>5.0f} queries, {gain:.2f}x as fast as alone")
    assert all(turn["alone"][0] == BOOKS * REQUESTS for turn in rounds)
    assert all(turn["loaded"][0] == REQUESTS for turn in rounds)


if __name__ == "__main__":
    asyncio.run(main())
