"""The functions that are batched: they give their items back, and note how many they were."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from .adapters.base import ASYNCIO

Function = Callable[[list[Any]], Any]
Gate = threading.Event | asyncio.Event  # open when set


def echo(way: str, sizes: list[int], takes: float = 0.0) -> Function:
    """A function that sleeps `takes` seconds, or costs nothing: then the way to it is measured."""

    def plain(items: list[Any]) -> list[Any]:
        sizes.append(len(items))  # atomic, as the workers are several
        return list(items)

    def slow(items: list[Any]) -> list[Any]:
        time.sleep(takes)
        return plain(items)

    async def coroutine(items: list[Any]) -> list[Any]:
        sizes.append(len(items))
        return list(items)

    async def slow_coroutine(items: list[Any]) -> list[Any]:
        await asyncio.sleep(takes)
        return plain(items)

    if way == ASYNCIO:
        return slow_coroutine if takes else coroutine
    return slow if takes else plain


def bare(items: list[Any]) -> list[Any]:
    """What costs nothing, and notes nothing."""
    return list(items)


async def abare(items: list[Any]) -> list[Any]:
    """The same as `async def`."""
    return list(items)


def gated(way: str, function: Function, gate: Gate) -> Function:
    """The same function, but its calls wait while the gate is closed."""

    def plain(items: list[Any]) -> list[Any]:
        gate.wait()
        return function(items)

    async def coroutine(items: list[Any]) -> list[Any]:
        await gate.wait()
        return await function(items)

    return coroutine if way == ASYNCIO else plain


def open_gate(way: str) -> Gate:
    """A gate that lets everyone through until it is closed."""
    gate: Gate = asyncio.Event() if way == ASYNCIO else threading.Event()
    gate.set()
    return gate
