"""What type checkers must infer: checked by mypy --strict and pyright strict, never run."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Generator,
    Iterator,
    Mapping,
    Sequence,
    ValuesView,
)
from datetime import timedelta
from typing import Any, Generic, TextIO, TypeVar, assert_type

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

T = TypeVar("T")


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
    view = insert.options(timeout=1, deadline=timedelta(seconds=2), priority=3)
    assert_type(list(view.map(users, window=3)), list[int])
    assert_type(list(view.map(users, return_exceptions=True)), list[int | BaseException])
    assert_type(everything(("users", 1)), BatchFuture[int])


async def acalls(users: AsyncIterator[User], more: list[User]) -> None:
    assert_type([x async for x in bare.amap(users)], list[int])
    assert_type([x async for x in bare.amap(more, ordered=False)], list[int])
    both = [x async for x in bare.amap(more, return_exceptions=True)]
    assert_type(both, list[int | BaseException])
    view = bare.options(deadline=2)
    assert_type([x async for x in view.amap(more)], list[int])
    several = [x async for x in view.amap(users, return_exceptions=True)]
    assert_type(several, list[int | BaseException])


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
    assert_type(handled(user), BatchFuture[int])


# ---- what must be an error ----


def wrong(repository: Repository, user: User) -> None:
    bare.size = "x"  # type: ignore[assignment]  # pyright: ignore[reportAttributeAccessIssue]
    bare.map([1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType, reportCallIssue]
    bare.options().map([1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType, reportCallIssue]
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


# ---- results of all sorts ----


class Array:
    """As `numpy.ndarray`: its elements have no type."""

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Any:
        return iter(())

    def __getitem__(self, key: Any) -> Any:
        return 0


class Series(Generic[T]):
    """As `pandas.Series` in its stubs."""

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[T]:
        return iter(())

    def __getitem__(self, key: Any) -> Any:
        return 0

    def keys(self) -> list[str]:
        return []


class AsyncRows:
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        return b""


def array(names: list[str]) -> Array:
    return Array()


async def aarray(names: list[str]) -> Array:
    return Array()


def series(names: list[str]) -> Series[float]:
    return Series()


def mapped(names: list[str]) -> map[int]:
    return map(len, names)


def zipped(names: list[str]) -> zip[tuple[str, int]]:
    return zip(names, range(9), strict=False)


def of_views(names: list[str]) -> ValuesView[int]:
    return dict.fromkeys(names, 1).values()


def of_a_file(names: list[str]) -> TextIO:
    return sys.stdin


def some_errors(names: list[str]) -> list[int | Exception]:
    return [ValueError() for _ in names]


async def asome_errors(names: list[str]) -> list[int | Exception | Retry]:
    return [Retry() for _ in names]


def own_errors(names: list[str]) -> list[int | ValueError]:
    return [ValueError() for _ in names]


def errors_by_item(names: list[str]) -> dict[str, int | Exception]:
    return {name: ValueError() for name in names}


def yields_errors(names: list[str]) -> Iterator[int | Exception | Retry]:
    yield Retry()


async def ayields_errors(names: list[str]) -> AsyncIterator[int | Exception]:
    yield ValueError()


def some_none(names: list[str]) -> list[int | Exception | None]:
    return [None for _ in names]


def users(names: list[str]) -> tuple[User, ...]:
    return ()


async def areturns_rows(names: list[str]) -> AsyncRows:
    return AsyncRows()


assert_type(batched(array)("x"), BatchFuture[Any])
assert_type(batched(aarray)("x"), BatchFuture[Any])
assert_type(batched(series)("x"), BatchFuture[float])
assert_type(batched(mapped)("x"), BatchFuture[int])
assert_type(batched(zipped)("x"), BatchFuture[tuple[str, int]])
assert_type(batched(of_views)("x"), BatchFuture[int])
assert_type(batched(of_a_file)("x"), BatchFuture[str])
assert_type(batched(some_errors)("x"), BatchFuture[int])
assert_type(batched(some_errors, size=3)("x").result(), int)
assert_type(batched(asome_errors)("x"), BatchFuture[int])
# pyright cannot leave out a subclass: it infers `int | ValueError`. Annotate `int | Exception`.
assert_type(batched(own_errors)("x"), BatchFuture[int])  # pyright: ignore[reportAssertTypeFailure]
assert_type(batched(errors_by_item)("x"), BatchFuture[int])
assert_type(batched(yields_errors)("x"), BatchFuture[int])
assert_type(batched(ayields_errors)("x"), BatchFuture[int])
assert_type(batched(some_none)("x"), BatchFuture[int | None])
assert_type(batched(users)("x"), BatchFuture[User])
assert_type(batched(areturns_rows)("x"), BatchFuture[bytes])


class Loader:
    @batched
    def some_errors(self, names: list[str]) -> list[int | Exception]:
        return [1 for _ in names]

    @batched(size=3)
    async def by_item(self, names: list[str]) -> dict[str, int | Exception]:
        return {}


def of_methods(loader: Loader) -> None:
    assert_type(loader.some_errors("x").result(), int)
    assert_type(loader.by_item("x").result(), int)
