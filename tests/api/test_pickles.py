"""Functions and methods are pickled by name: contract 2."""

from __future__ import annotations

import functools
import pickle
from typing import Any

import pytest

from batchify import batched
from tests.limits import LIMIT


@batched
def by_name(items: list[Any], extra: Any = None) -> list[Any]:
    return [(item, extra) for item in items]


@batched
async def by_name_async(items: list[Any]) -> list[Any]:
    return items


class Picklable:
    def __init__(self, name: str) -> None:
        self.name = name

    @batched
    def method(self, items: list[Any]) -> list[Any]:
        return [(self.name, item) for item in items]

    @batched
    @classmethod
    def inner(cls, items: list[Any]) -> list[Any]:
        return [(cls.__name__, item) for item in items]

    @classmethod
    @batched
    def outer(cls, items: list[Any]) -> list[Any]:
        return [(cls.__name__, item) for item in items]

    @batched
    @staticmethod
    def static(items: list[Any]) -> list[Any]:
        return items

    class Nested:
        @batched
        @classmethod
        def inner(cls, items: list[Any]) -> list[Any]:
            return [(cls.__name__, item) for item in items]


class Derived(Picklable):
    pass


def again(value: Any, protocol: int) -> Any:
    return pickle.loads(pickle.dumps(value, protocol))


every_protocol = pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))


@every_protocol
def test_functions_are_pickled_by_name(protocol: int) -> None:
    assert by_name("used").result(LIMIT)
    assert again(by_name, protocol) is by_name
    assert again(by_name_async, protocol) is by_name_async
    assert again([by_name, by_name], protocol) == [by_name, by_name]
    part = again(functools.partial(by_name, extra=3), protocol)
    assert part.func is by_name
    assert part(1).result(LIMIT) == (1, 3)


@every_protocol
def test_methods_are_pickled_with_their_owner(protocol: int) -> None:
    method = again(Picklable("mine").method, protocol)
    assert method(1).result(LIMIT) == ("mine", 1)
    part = again(functools.partial(Picklable("mine").method, 2), protocol)
    assert part().result(LIMIT) == ("mine", 2)
    owner = Picklable("mine")
    owner.method(1).result(LIMIT)
    copied = again(owner, protocol)
    assert copied.name == "mine"
    assert copied.method.stats().submitted == 0


@every_protocol
@pytest.mark.parametrize("cls", [Picklable, Derived])
def test_class_and_static_methods_are_pickled_with_their_class(protocol: int, cls: Any) -> None:
    for method in (cls.inner, cls.outer, cls("x").inner, cls("x").outer):
        copied = again(method, protocol)
        assert copied(1).result(LIMIT) == (cls.__name__, 1)
        assert copied.stats() == method.stats()  # the same queue
    assert again(cls.static, protocol)(1).result(LIMIT) == 1
    assert again(cls("x").static, protocol)(1).result(LIMIT) == 1
    assert again(cls.Nested.inner, protocol)(1).result(LIMIT) == ("Nested", 1)


def test_what_has_no_name_is_not_pickled() -> None:
    f = batched(lambda items: items)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(f)
