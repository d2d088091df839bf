"""Items and results that raise whatever is done to them: contract 4 and 6."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from batchify import batched
from tests.leaks import Oops
from tests.manual import LIMIT


def bite(*_: Any) -> Any:
    raise RuntimeError("hands off")


class Hostile:
    """Raises whatever is done to it."""

    __eq__ = __ne__ = __hash__ = __bool__ = __len__ = __iter__ = bite  # type: ignore[assignment]
    __repr__ = __str__ = __format__ = __del__ = __call__ = bite  # type: ignore[assignment]
    __lt__ = __contains__ = __await__ = __getattr__ = __reduce_ex__ = bite  # type: ignore[assignment]
    __class__ = property(bite)  # type: ignore[assignment]


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_items_and_results_may_raise_whatever_is_done_to_them(
    is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # each `__del__` raises

    def work(items: list[Any]) -> list[Any]:
        if len(items) == 3:
            raise Oops
        return [Oops() if n == 1 else item for n, item in enumerate(items)]

    async def awork(items: list[Any]) -> list[Any]:
        return work(items)

    def gen(items: list[Any]) -> Iterator[Any]:
        yield from work(items)

    options: list[dict[str, Any]] = [
        {}, {"isolate": True}, {"on_error": lambda failure: None}, {"key": lambda item: 1},
        {"weight": lambda item: 1, "max_weight": 2}, {"dedupe": id},
    ]  # fmt: skip
    functions = [batched(awork if is_async else work, size=4, **given) for given in options]
    functions += [] if is_async else [batched(gen, size=4)]
    for f in functions:
        items = [Hostile() for _ in range(16)]
        futures = [f(item) for item in items]
        futures += [f.options(priority=2, deadline=60)(item) for item in items]
        futures[5].cancel()
        ended = [future.exception(LIMIT) for future in futures if not future.cancelled()]
        assert all(error is None or type(error) is Oops for error in ended)
        given = [future.result() for future in futures if future.done() and not failed(future)]
        assert all(type(result) is Hostile for result in given)
        assert len(list(f.map(items, return_exceptions=True))) == 16

        async def main(f: Any = f, items: Any = items) -> None:
            await asyncio.gather(*map(f, items), return_exceptions=True)
            _ = [result async for result in f.amap(items, return_exceptions=True, ordered=False)]

        asyncio.run(main())
        f.close()
        assert f.stats().failed + f.stats().succeeded + f.stats().cancelled == f.stats().accepted


def failed(future: Any) -> bool:
    return future.cancelled() or future.exception() is not None
