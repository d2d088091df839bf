"""The batch functions of the benchmarks: they return their items, and record the batch sizes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

from .adapters.base import ASYNCIO

Function = Callable[[list[Any]], Any]
Gate = threading.Event | asyncio.Event  # open if set


def echo(mode: str, sizes: list[int], takes: float = 0.0) -> Function:
    """Return a function that sleeps `takes` seconds, or costs nothing, and records batch sizes."""

    def plain(items: list[Any]) -> list[Any]:
        sizes.append(len(items))  # atomic: several workers call this
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

    if mode == ASYNCIO:
        return slow_coroutine if takes else coroutine
    return slow if takes else plain


def bare(items: list[Any]) -> list[Any]:
    """Return the items; cost nothing, and record nothing."""
    return list(items)


async def abare(items: list[Any]) -> list[Any]:
    """Do the same as an `async def`."""
    return list(items)


def gated(mode: str, function: Function, gate: Gate) -> Function:
    """Return the same function, whose calls wait while the gate is closed."""

    def plain(items: list[Any]) -> list[Any]:
        gate.wait()
        return function(items)

    async def coroutine(items: list[Any]) -> list[Any]:
        await gate.wait()
        return await function(items)

    return coroutine if mode == ASYNCIO else plain


def open_gate(mode: str) -> Gate:
    """Return a gate that is open."""
    gate: Gate = asyncio.Event() if mode == ASYNCIO else threading.Event()
    gate.set()
    return gate
