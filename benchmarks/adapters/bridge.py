"""Adapt a `def` for rivals that take an `async def` only, as their users would."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any


def awaitable(function: Callable[[list[Any]], Any], pool: Executor) -> Callable[[list[Any]], Any]:
    """Return the function as an `async def`: itself, or a wrapper that runs it in the pool."""
    if inspect.iscoroutinefunction(function):
        return function

    async def in_pool(items: list[Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, function, items)

    return in_pool
