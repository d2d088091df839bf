"""A bound batched method can be copied, pickled, weakly referenced and connected to signals."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import operator
import pickle
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from batchify import batched


class Store:
    """Every kind of batched method, each with a plain one for comparison."""

    def __init__(self, name: str) -> None:
        self.name = name

    @batched
    def save(self, items: list[int]) -> list[Any]:
        return [(self.name, item) for item in items]

    def plain(self, item: int) -> Any:
        return (self.name, item)

    @batched
    def tagged(self, items: list[int], tag: str) -> list[Any]:
        return [(self.name, item, tag) for item in items]

    @batched
    @classmethod
    def count(cls, items: list[int]) -> list[Any]:
        return [(cls.__name__, item) for item in items]

    @classmethod
    @batched
    def total(cls, items: list[int]) -> list[Any]:
        return [(cls.__name__, item) for item in items]

    @batched
    @staticmethod
    def check(items: list[int]) -> list[int]:
        return items

    @staticmethod
    @batched
    def verify(items: list[int]) -> list[int]:
        return items


class SubStore(Store):
    pass


class Keeper:
    """Stores its own bound method, as an object with a callback does."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.callback = self.save
        self.plain_callback = self.plain

    @batched
    def save(self, items: list[int]) -> None:
        self.seen.extend(items)

    def plain(self) -> None: ...


class Slotted:
    """A class with `__slots__`, whose instances cannot be weakly referenced."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    @batched
    def save(self, items: list[int]) -> list[Any]:
        return [(self.name, item) for item in items]


class SilentRepr:
    """An instance whose repr, equality and hash must not be used."""

    def __repr__(self) -> str:
        raise AssertionError("the repr of an instance may show content")

    @batched
    def save(self, items: list[int]) -> list[int]:
        return items


Lookup = Callable[[], Any]

LOOKUPS = [
    pytest.param(lambda: Store("a").save, id="method"),
    pytest.param(lambda: Store.count, id="class method inside"),
    pytest.param(lambda: SubStore.count, id="class method of a subclass"),
    pytest.param(lambda: Store("a").count, id="class method by instance"),
    pytest.param(lambda: Store.total, id="class method outside"),
    pytest.param(lambda: Store.check, id="static method inside"),
    pytest.param(lambda: Store("a").check, id="static method by instance"),
    pytest.param(lambda: Store.verify, id="static method outside"),
    pytest.param(lambda: Slotted("a").save, id="method with slots"),
]


# ---- copies ----


@pytest.mark.parametrize("lookup", LOOKUPS)
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_bound_method_can_be_copied(lookup: Lookup, copied: Callable[[Any], Any]) -> None:
    method = lookup()
    assert copied(method)(1).result(60) == method(1).result(60)


def test_a_copy_is_the_same_method() -> None:
    store = Store("a")
    assert copy.copy(store.save) == store.save
    assert copy.copy(store.save).__self__ is store


def test_the_deep_copy_of_an_object_has_its_own_method() -> None:
    keeper = Keeper()
    twin = copy.deepcopy(keeper)
    assert twin.callback.__self__ is twin
    assert twin.plain_callback.__self__ is twin  # as plain methods do
    twin.callback(1).result(60)
    assert (keeper.seen, twin.seen) == ([], [1])


def test_a_deep_copied_method_belongs_to_a_copied_instance() -> None:
    store = Store("a")
    method = copy.deepcopy(store.save)
    assert method.__self__ is not store
    store.name = "changed"
    assert method(1).result(60) == ("a", 1)


def test_a_deep_copied_class_method_belongs_to_the_class() -> None:
    for method in (Store.count, Store("a").count, Store.total):
        assert copy.deepcopy(method).__self__ is Store


# ---- pickles ----


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("lookup", LOOKUPS[:-1])
def test_a_bound_method_is_pickled_by_name(lookup: Lookup, protocol: int) -> None:
    method = lookup()
    loaded = pickle.loads(pickle.dumps(method, protocol))
    assert loaded(1).result(60) == method(1).result(60)


def test_a_pickled_method_brings_its_instance() -> None:
    store = Store("a")
    loaded_store, method = pickle.loads(pickle.dumps((store, store.save)))
    assert method.__self__ is loaded_store


def test_a_pickled_class_method_brings_its_class_only() -> None:
    unpicklable = Store("a")
    unpicklable.lock = gc.collect, lambda: None  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(unpicklable.count)) == Store.count
    assert pickle.loads(pickle.dumps(unpicklable.check))(1).result(60) == 1


# ---- weak references ----


@pytest.mark.parametrize(
    "lookup",
    [
        pytest.param(lambda store: store.save, id="method"),
        pytest.param(lambda store: Store.count, id="class method inside"),
        pytest.param(lambda store: SubStore.count, id="class method of a subclass"),
        pytest.param(lambda store: store.count, id="class method by instance"),
        pytest.param(lambda store: Store.total, id="class method outside"),
    ],
)
def test_a_weak_method_gives_the_method_back(lookup: Callable[[Store], Any]) -> None:
    store = Store("a")
    weak = weakref.WeakMethod(lookup(store))
    found = weak()
    assert found is not None
    assert found == lookup(store)
    assert found.__self__ is lookup(store).__self__
    assert found(1).result(60) == lookup(store)(1).result(60)
    assert weak == weakref.WeakMethod(lookup(store))


def test_a_weak_method_does_not_keep_the_instance_alive() -> None:
    store = Store("a")
    gone: list[Any] = []
    weak = weakref.WeakMethod(store.save, gone.append)
    del store
    gc.collect()
    assert weak() is None
    assert gone == [weak]


@pytest.mark.parametrize("lookup", [lambda: Store.check, lambda: Store.verify, lambda: Store.save])
def test_an_unbound_method_is_refused_as_a_function_is(lookup: Lookup) -> None:
    assert not hasattr(lookup(), "__self__")
    with pytest.raises(TypeError, match="bound method"):
        weakref.WeakMethod(lookup())


def test_a_signal_with_weak_receivers() -> None:
    blinker = pytest.importorskip("blinker")
    signal = blinker.Signal()
    keeper = Keeper()
    signal.connect(keeper.save, weak=True)
    for receiver in signal.receivers_for(None):
        receiver(1).result(60)
    assert keeper.seen == [1]
    signal.disconnect(keeper.save)
    assert not list(signal.receivers_for(None))


def test_a_signal_forgets_a_receiver_whose_instance_is_gone() -> None:
    blinker = pytest.importorskip("blinker")
    signal = blinker.Signal()
    store = Store("a")
    signal.connect(store.save, weak=True)
    del store
    gc.collect()
    assert not list(signal.receivers_for(None))


# ---- introspection ----


def test_its_function_and_its_instance() -> None:
    store = Store("a")
    assert store.save.__self__ is store
    assert store.save.__func__ is Store.__dict__["save"]
    assert store.save.__name__ == "save"
    assert store.save.__qualname__ == "Store.save"
    assert inspect.ismethod(store.save)
    assert inspect.ismethod(Store.count)
    assert not inspect.ismethod(Store.check)


def test_its_function_can_be_called_and_bound_again() -> None:
    store, other = Store("a"), Store("b")
    function = store.save.__func__
    assert function(store, 1).result(60) == ("a", 1)
    assert function(SubStore("s"), 1).result(60) == ("s", 1)
    assert types.MethodType(function, other)(1).result(60) == ("b", 1)
    assert function.__get__(other)(1).result(60) == ("b", 1)
    assert store.tagged.__func__(store, 1, "x").result(60) == ("a", 1, "x")
    assert store.tagged.__func__(store, 1, tag="x").result(60) == ("a", 1, "x")
    assert store.save.stats().succeeded == 1
    assert Store.count.__func__(SubStore, 1).result(60) == ("SubStore", 1)
    assert types.MethodType(Store.count.__func__, Store)(1).result(60) == ("Store", 1)


@pytest.mark.parametrize("lookup", LOOKUPS[1:5])
def test_two_lookups_are_equal_and_hash_alike(lookup: Lookup) -> None:
    assert lookup() == lookup()
    assert hash(lookup()) == hash(lookup())


def test_equality_of_methods() -> None:
    a, b = Store("a"), Store("b")
    assert a.save == a.save
    assert hash(a.save) == hash(a.save)
    assert {a.save: 1}[a.save] == 1
    assert a.save != b.save
    assert a.save != a.tagged
    assert Store.count != SubStore.count
    assert a.save in [b.save, a.save]


def test_a_static_method_may_take_an_instance_as_its_item() -> None:
    class Shop:
        @batched
        @staticmethod
        def check(items: list[Any], tag: str) -> list[Any]:
            return [(type(item).__name__, tag) for item in items]

    shop = Shop()
    assert shop.check(shop, "x").result(60) == ("Shop", "x")
    assert Shop.__dict__["check"](shop, "x").result(60) == ("Shop", "x")


# ---- with the standard library ----


def test_partials_and_callers() -> None:
    store = Store("a")
    assert functools.partial(store.save, 1)().result(60) == ("a", 1)
    assert functools.partial(store.tagged, tag="x")(1).result(60) == ("a", 1, "x")
    assert operator.methodcaller("save", 1)(store).result(60) == ("a", 1)
    assert operator.attrgetter("save")(store)(1).result(60) == ("a", 1)
    futures = list(map(store.save, [1, 2]))
    assert [future.result(60) for future in futures] == [("a", 1), ("a", 2)]


def test_a_partial_method() -> None:
    class Log:
        @batched
        def write(self, items: list[str], level: str) -> list[Any]:
            return [(level, item) for item in items]

        warn = functools.partialmethod(write, level="warn")

    assert Log().warn("x").result(60) == ("warn", "x")  # type: ignore[arg-type]


def test_a_function_taken_into_a_class_stays_a_function() -> None:
    @batched
    def describe(owner: Any, items: list[int] | None = None) -> list[Any]:
        return owner if items is None else [(owner.name, item) for item in items]

    class Named:
        name = "n"
        method = describe

    assert Named().method(1).result(60) == ("n", 1)
    assert describe(1).result(60) == 1


# ---- repr ----


def test_the_repr_names_the_method_and_not_the_content_of_the_instance() -> None:
    silent = SilentRepr()
    for shown in (repr(silent.save), str(silent.save), f"{silent.save}"):
        assert shown.startswith(f"<batched method {__name__}.SilentRepr.save of <")
        assert f"SilentRepr object at {id(silent):#x}" in shown
    assert repr(Store.count).startswith(
        f"<batched method {__name__}.Store.count of <class '{__name__}.Store'> (size=64"
    )
    assert repr(Store.check).startswith(f"<batched function {__name__}.Store.check (size=64")
    assert repr(Store.save).startswith(f"<batched function {__name__}.Store.save (size=64")
