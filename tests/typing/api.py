"""What type checkers must infer: checked by mypy --strict and pyright strict, never run."""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from datetime import timedelta
from typing import Any, assert_type

from batchify import (
    BatchEvent,
    BatchFailure,
    BatchFuture,
    Distribution,
    Retry,
    Stats,
    batched,
    observe,
)


class User: ...


# ---- functions, bare and with options ----


@batched
def bare(users: list[User]) -> list[int]:
    return [1 for _ in users]


@batched(size=500, linger=0.01, workers=2, capacity=None, name="insert")
def insert(users: list[User], table: str, *, level: int = 0) -> list[int]:
    return [1 for _ in users]


@batched(linger=timedelta(milliseconds=2))
def takes_sequence(users: Sequence[User]) -> tuple[str, ...]:
    return tuple("x" for _ in users)


@batched
def gives_mapping(names: list[str]) -> dict[str, int]:
    return dict.fromkeys(names, 1)


@batched
def gives_nothing(names: list[str]) -> None:
    return


@batched
def gives_generator(names: list[str]) -> Generator[bytes, None, None]:
    for name in names:
        yield name.encode()


@batched
async def abare(users: list[User]) -> list[int]:
    return [1 for _ in users]


@batched(size=2)
async def awith(users: list[User], table: str) -> Mapping[User, int]:
    return dict.fromkeys(users, 1)


@batched
async def anothing(users: list[User]) -> None:
    return


@batched
async def agen(users: list[User]) -> AsyncGenerator[str, None]:
    for _ in users:
        yield ""


def plain(items: list[int]) -> list[str]:
    return [str(item) for item in items]


wrapped = batched(plain)
wrapped_with = batched(plain, size=3)


def functions(user: User) -> None:
    assert_type(bare(user), BatchFuture[int])
    assert_type(bare(user).result(), int)
    assert_type(insert(user, "users", level=1), BatchFuture[int])
    assert_type(insert.submit(user, "users"), BatchFuture[int])
    assert_type(insert.submit_nowait(user, "users").result(1.0), int)
    assert_type(insert.options(timeout=1)(user, "users"), BatchFuture[int])
    assert_type(takes_sequence(user), BatchFuture[str])
    assert_type(gives_mapping("x"), BatchFuture[int])
    assert_type(gives_nothing("x"), BatchFuture[None])
    assert_type(gives_generator("x"), BatchFuture[bytes])
    assert_type(abare(user), BatchFuture[int])
    assert_type(awith(user, "users"), BatchFuture[int])
    assert_type(anothing(user), BatchFuture[None])
    assert_type(agen(user), BatchFuture[str])
    assert_type(wrapped(1), BatchFuture[str])
    assert_type(wrapped_with(1), BatchFuture[str])
    assert_type(bare.stats(), Stats)
    assert_type(bare.size, int)
    assert_type(bare.linger, float | None)
    bare.flush(1)
    bare.close(timedelta(seconds=1), cancel=True)
    with bare as same:
        assert_type(same(user), BatchFuture[int])


async def awaited(user: User) -> None:
    assert_type(await bare(user), int)
    assert_type(await abare(user), int)
    assert_type(await gives_nothing("x"), None)
    assert_type(await insert.asubmit(user, "users"), BatchFuture[int])
    assert_type(await asyncio.gather(bare(user), wrapped(1)), tuple[int, str])
    await bare.aflush()
    await bare.aclose(1, cancel=False)
    async with bare as same:
        assert_type(await same(user), int)


# ---- methods ----


class Repository:
    @batched
    def bare(self, users: list[User]) -> list[int]:
        return [1 for _ in users]

    @batched(size=2)
    def insert(self, users: list[User], table: str, *, level: int = 0) -> list[int]:
        return [1 for _ in users]

    @batched
    async def ainsert(self, users: list[User], table: str) -> list[str]:
        return ["" for _ in users]

    @batched
    def nothing(self, users: list[User]) -> None:
        return

    @batched
    def mapping(self, users: list[str]) -> dict[str, float]:
        return dict.fromkeys(users, 1.0)

    @batched
    @classmethod
    def of_class(cls, users: list[User]) -> list[int]:
        return [1 for _ in users]

    @batched
    @staticmethod
    def static(users: list[User]) -> list[int]:
        return [1 for _ in users]


def methods(repository: Repository, user: User) -> None:
    assert_type(repository.bare(user), BatchFuture[int])
    assert_type(repository.insert(user, "users", level=2), BatchFuture[int])
    assert_type(repository.ainsert(user, "users"), BatchFuture[str])
    assert_type(repository.nothing(user), BatchFuture[None])
    assert_type(repository.mapping("x"), BatchFuture[float])
    assert_type(repository.insert.options(timeout=1)(user, "users").result(), int)
    assert_type(Repository.bare(repository, user), BatchFuture[int])
    assert_type(Repository.of_class(user), BatchFuture[int])
    assert_type(repository.of_class(user), BatchFuture[int])
    assert_type(Repository.static(user), BatchFuture[int])
    repository.insert.close()


# ---- options ----


def by_table(user: tuple[str, int]) -> str:
    return user[0]


@batched(
    key=by_table,
    weight=len,
    max_weight=1000,
    dedupe=True,
    isolate=True,
)
def everything(rows: list[tuple[str, int]]) -> list[int | Retry]:
    return [Retry(after=timedelta(seconds=1), attempts=2, cause=ValueError()) for _ in rows]


def limits() -> None:
    bare.size = 3
    bare.linger = None
    bare.linger = timedelta(seconds=1)
    bare.workers = 2
    bare.capacity = None
    assert_type(bare.linger, float | None)


def calls(user: User, users: list[User]) -> None:
    urgent = bare.options(timeout=1, deadline=timedelta(seconds=2), priority=-1.5)
    assert_type(urgent(user), BatchFuture[int])
    assert_type(urgent.submit_nowait(user), BatchFuture[int])
    assert_type(list(bare.map(users)), list[int])
    assert_type(list(bare.map(users, ordered=False, window=3, progress=True)), list[int])
    assert_type(list(bare.map(users, return_exceptions=True)), list[int | BaseException])
    assert_type(everything(("users", 1)), BatchFuture[int | Retry])


async def acalls(users: AsyncIterator[User], more: list[User]) -> None:
    assert_type([x async for x in bare.amap(users)], list[int])
    assert_type([x async for x in bare.amap(more, ordered=False)], list[int])
    both = [x async for x in bare.amap(more, return_exceptions=True)]
    assert_type(both, list[int | BaseException])


def observer(event: BatchEvent) -> None:
    assert_type(event.queued, float)


def observed() -> None:
    assert_type(observe(observer), Callable[[], None])
    end = bare.observe(observer)
    end()
    stats = bare.stats()
    assert_type(stats.sizes, Distribution)
    assert_type(stats.queued.p99, float)
    assert_type(stats.explain(), str)


def handler(failure: BatchFailure) -> Any:
    assert_type(failure.exception, Exception)
    return None


@batched(on_error=handler, exit_timeout=1)
def handled(users: list[User]) -> list[int | Exception]:
    return [1 for _ in users]


def checked(user: User) -> None:
    assert_type(handled(user), BatchFuture[int | Exception])


# ---- what must be an error ----


def wrong(repository: Repository, user: User) -> None:
    bare.size = "x"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    bare.map([1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType, reportCallIssue]
    bare(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    bare(user, 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    insert(user)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    insert(user, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    repository.bare("x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    batched(siez=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    batched(size="x")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]


def iterators(names: list[str]) -> Iterator[int]:
    yield from map(len, names)


async def aiterators(names: list[str]) -> AsyncIterator[int]:
    for name in names:
        yield len(name)


assert_type(batched(iterators)("x"), BatchFuture[int])
assert_type(batched(aiterators)("x"), BatchFuture[int])
