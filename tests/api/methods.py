"""A class whose methods of every type are batched."""

from __future__ import annotations

from typing import Any

from batchify import batched


class Plain:
    def __init__(self, name: str) -> None:
        self.name = name

    @batched(size=4, linger=None)
    def method(self, items: list[int]) -> list[Any]:
        return [(self.name, item) for item in items]

    @batched
    def more(self, items: list[int], extra: str, *, level: int = 0) -> list[Any]:
        return [(self.name, item, extra, level) for item in items]

    @batched
    async def amethod(self, items: list[int]) -> list[Any]:
        return [(self.name, item) for item in items]

    @batched
    @classmethod
    def inner_class(cls, items: list[int]) -> list[Any]:
        return [(cls.__name__, item) for item in items]

    @classmethod
    @batched
    def outer_class(cls, items: list[int]) -> list[Any]:
        return [(cls.__name__, item) for item in items]

    @batched
    @staticmethod
    def inner_static(items: list[int]) -> list[int]:
        return items

    @staticmethod
    @batched
    def outer_static(items: list[int]) -> list[int]:
        return items
