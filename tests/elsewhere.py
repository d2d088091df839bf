"""Batch functions that other processes import by name, for the tests of executors."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextvars import ContextVar
from typing import Any

from batchify import Retry, batched

caller: ContextVar[str] = ContextVar("caller", default="nobody")


class Unsendable(Exception):
    """An exception whose content cannot be pickled."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(threading.Lock())
        self.both = first, second


def where(items: list[Any]) -> list[tuple[Any, int, str]]:
    """Return each item, its process id, and the caller in its context."""
    return [(item, os.getpid(), caller.get()) for item in items]


def extra(items: list[int], factor: int, *, add: int = 0) -> list[int]:
    return [item * factor + add for item in items]


def by_item(items: list[int]) -> dict[int, str]:
    return {item: str(item) for item in reversed(items)}


def nothing(items: list[int]) -> None:
    return


def raises(items: list[Any]) -> list[Any]:
    """Raise the first item if it is an exception, else return the items."""
    if isinstance(items[0], BaseException):
        raise items[0]
    return items


def unsendable(items: list[str]) -> list[Any]:
    if items[0] == "error":
        raise Unsendable(1, 2)
    return [threading.Lock() for _ in items]


def stream(items: list[int]) -> Iterator[Any]:
    """End early at 1, raise at 2, yield an exception for 3, and one result too many after 4."""
    for item in items:
        if item == 1:
            return
        if item == 2:
            raise KeyError("midway")
        yield ValueError(item) if item == 3 else -item
        if item == 4:
            yield "too much"


def endless(items: list[int]) -> Iterator[int]:
    yield from items
    while True:
        yield 0


def mixed(items: list[int]) -> list[Any]:
    """Return elements of which one cannot be sent."""
    return [Unsendable(1, 2) if item < 0 else item for item in items]


def caused(items: list[int]) -> list[int]:
    try:
        raise KeyError("deep")
    except KeyError as error:
        raise ValueError("for all") from error


def again(items: list[int]) -> list[Any]:
    return [Retry(attempts=2, cause=ValueError("not yet"))] * len(items)


def picky(items: list[int]) -> list[int]:
    if any(item < 0 for item in items):
        raise ValueError("negative")
    return items


def killed(items: list[str]) -> list[int]:
    """Kill the process, or return its id."""
    if "kill" in items:
        os.kill(os.getpid(), signal.SIGKILL)
    return [os.getpid()] * len(items)


def slow(items: list[float]) -> list[float]:
    for item in items:
        time.sleep(item)
    return items


def shifted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a function with a decorator of another library."""

    @functools.wraps(function)
    def wrapper(items: list[int]) -> Any:
        return function([item + 1 for item in items])

    return wrapper


def pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1)


@batched(size=2, executor=pool)
def decorated(items: list[int]) -> list[tuple[int, int]]:
    return [(item, os.getpid()) for item in items]


@batched(executor=pool)
@shifted
def below(items: list[int]) -> list[tuple[int, int]]:
    return [(item, os.getpid()) for item in items]


class Model:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    @batched(executor=pool)
    def scaled(self, items: list[int]) -> list[tuple[int, int]]:
        return [(item * self.factor, os.getpid()) for item in items]

    @batched(executor=pool)
    @classmethod
    def name(cls, items: list[int]) -> list[tuple[str, int]]:
        return [(cls.__name__, os.getpid()) for _ in items]

    @classmethod
    @batched(executor=pool)
    def above(cls, items: list[int]) -> list[tuple[str, int]]:
        return [(cls.__name__, os.getpid()) for _ in items]

    @batched(executor=pool)
    def __private(self, items: list[int]) -> list[tuple[int, int]]:
        return [(item, os.getpid()) for item in items]

    def private(self, item: int) -> Any:
        return self.__private(item)

    @batched(executor=pool)
    @staticmethod
    def static(items: list[int]) -> list[tuple[int, int]]:
        return [(item, os.getpid()) for item in items]


class Stuck(Model):
    """An object that cannot be sent."""

    def __init__(self) -> None:
        super().__init__(2)
        self.lock = threading.Lock()


async def awaited(items: list[int]) -> list[int]:
    await asyncio.sleep(0)
    return items


def modules(items: list[str]) -> list[bool]:
    """Return True if the module was imported in this process."""
    return [item in sys.modules for item in items]
