"""What can be decorated, and which queue each call uses: contract 2 and 8."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from batchify import BadResult, Batched, BatchFailure, batched
from tests.api.methods import Plain
from tests.limits import LIMIT
from tests.manual import in_thread, until


@batched
def documented(users: list[int], table: str = "users") -> list[int]:
    "One bulk INSERT."
    return users


class Sub(Plain):
    pass


class Slots:
    __slots__ = ("name",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, name: str) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return True

    @batched(size=2, linger=None)
    def method(self, items: list[int]) -> list[Any]:
        return [(self.name, item) for item in items]


def test_it_looks_as_before() -> None:
    assert documented.__name__ == "documented"
    assert documented.__doc__ == "One bulk INSERT."
    assert documented.__module__ == __name__
    assert str(inspect.signature(documented)).startswith("(users:")
    assert documented.__wrapped__([1]) == [1]
    assert isinstance(documented, Batched)
    assert (documented.size, documented.linger, documented.workers, documented.capacity) == (
        64,
        0.0,
        1,
        10_000,
    )


def test_no_coroutine_function_whatever_is_decorated() -> None:
    async def one(items: list[int]) -> list[int]:
        return items

    async def two(items: list[int]) -> Any:
        yield items

    for f in (batched(one), batched(two), Plain("x").amethod, Plain.amethod):
        assert not inspect.iscoroutinefunction(f)
        assert not inspect.isasyncgenfunction(f)


def test_pickled_by_name_and_copied_as_itself() -> None:
    assert pickle.loads(pickle.dumps(documented)) is documented
    assert copy.copy(documented) is documented
    assert copy.deepcopy(documented) is documented
    method = pickle.loads(pickle.dumps(Plain("a").method))
    futures = [method(n) for n in range(4)]
    assert futures[3].result(LIMIT) == ("a", 3)
    assert pickle.loads(pickle.dumps(Plain.inner_class))(1).result(LIMIT) == ("Plain", 1)
    part = pickle.loads(pickle.dumps(functools.partial(documented, table="x")))
    assert part(3).result(LIMIT) == 3


def test_each_instance_has_its_own_queue() -> None:
    a, b = Plain("a"), Plain("b")
    futures = [owner.method(n) for n in range(3) for owner in (a, b)]
    assert not any(future.done() for future in futures)
    last = a.method(3)
    assert last.result(LIMIT) == ("a", 3)
    assert [future.done() for future in futures] == [True, False] * 3
    assert (a.method.stats().succeeded, b.method.stats().pending) == (4, 3)
    b.method.flush(LIMIT)
    assert futures[1].result(0) == ("b", 0)
    b.method.close()
    assert a.method.flush(LIMIT) is None


def test_instances_that_are_equal_unhashable_and_without_weak_references() -> None:
    a, b = Slots("a"), Slots("b")
    futures = [a.method(1), b.method(1), b.method(2), a.method(2)]
    assert [x.result(LIMIT) for x in futures] == [("a", 1), ("b", 1), ("b", 2), ("a", 2)]


def test_an_instance_does_not_live_longer_because_of_its_queue() -> None:
    owner = Plain("a")
    weak = weakref.ref(owner)
    assert owner.more(1, "x").result(LIMIT) == ("a", 1, "x", 0)
    owner.more.flush(LIMIT)
    del owner

    def is_gone() -> bool:  # at once, except for a worker that still runs on a build without a GIL
        gc.collect()
        return weak() is None

    until(is_gone)


def test_extra_arguments_of_a_method() -> None:
    a = Plain("a")
    assert a.more(1, "x", level=2).result(LIMIT) == ("a", 1, "x", 2)
    assert a.more.submit(1, "y").result(LIMIT) == ("a", 1, "y", 0)
    assert a.more.options(timeout=5)(1, extra="z").result(LIMIT) == ("a", 1, "z", 0)


def test_called_on_the_class() -> None:
    a = Plain("a")
    assert Plain.more(a, 1, "x").result(LIMIT) == ("a", 1, "x", 0)
    assert a.more.stats().succeeded == 1
    assert Sub.more(Sub("s"), 1, "x").result(LIMIT) == ("s", 1, "x", 0)
    sub = Sub("s")
    assert Plain.more(sub, 1, "x").result(LIMIT) == ("s", 1, "x", 0)


@pytest.mark.parametrize("name", ["inner_class", "outer_class"])
def test_class_methods(name: str) -> None:
    for who, expected in ((Plain, "Plain"), (Sub, "Sub"), (Plain("x"), "Plain"), (Sub("x"), "Sub")):
        assert getattr(who, name)(1).result(LIMIT) == (expected, 1)


@pytest.mark.parametrize("name", ["inner_static", "outer_static"])
def test_static_methods(name: str) -> None:
    for who in (Plain, Sub, Plain("x")):
        assert getattr(who, name)(1).result(LIMIT) == 1
    assert getattr(Plain, name).stats().succeeded >= 3


def test_async_methods() -> None:
    assert Plain("a").amethod(1).result(LIMIT) == ("a", 1)


def test_below_and_above_other_decorators() -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            return function(*args, **kwargs)

        return wrapper

    calls: list[int] = []

    class Both:
        @batched
        @logged
        def below(self, items: list[int]) -> list[int]:
            return items

        @logged
        @batched
        def above(self, items: list[int]) -> list[int]:
            return items

    both = Both()
    assert both.below(1).result(LIMIT) == 1
    assert both.below(2).result(LIMIT) == 2
    assert len(calls) == 2


def test_callable_objects_and_partials() -> None:
    class Insert:
        def __call__(self, items: list[int], by: int = 1) -> list[int]:
            return [item * by for item in items]

    class AInsert:
        async def __call__(self, items: list[int]) -> list[int]:
            return items

    assert batched(Insert())(2, by=3).result(LIMIT) == 6
    assert batched(AInsert())(2).result(LIMIT) == 2
    assert batched(functools.partial(Insert(), by=4))(2).result(LIMIT) == 8
    assert batched(Insert(), name="ins").stats().submitted == 0


def test_bound_methods_decorated_after_the_fact() -> None:
    class Db:
        def insert(self, items: list[int]) -> list[int]:
            return items

    assert batched(Db().insert)(1).result(LIMIT) == 1


def test_batch_is_the_undecorated_call() -> None:
    assert documented.batch([1, 2]) == [1, 2]
    assert Plain("a").more.batch([1], "x") == [("a", 1, "x", 0)]
    assert Plain.inner_class.batch([1]) == [("Plain", 1)]


def test_options_for_the_call_are_checked() -> None:
    with pytest.raises(TypeError, match="timeout"):
        documented.options(timeout="1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="timeout"):
        documented.options(timeout=-1)
    with pytest.raises(TypeError):
        documented.options(urgency=1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="deadline"):
        documented.options(deadline=-1)
    with pytest.raises(TypeError, match="priority"):
        documented.options(priority="high")  # type: ignore[arg-type]
    for call in (documented.flush, documented.close):
        with pytest.raises(ValueError, match="timeout"):
            call(-1)


# ---- results and errors, end to end ----


def test_on_error_gives_a_fallback_and_sees_what_failed() -> None:
    seen: list[BatchFailure] = []

    def handler(failure: BatchFailure) -> Any:
        seen.append(failure)
        tried: list[Any] = []
        for item in failure.items:
            again: Any = ValueError("bad")
            if item != "bad":
                again = failure.function([item], *failure.args) or "again"
            tried.append(again)
        return tried

    @batched(on_error=handler, linger=None)
    def f(items: list[str], extra: int) -> Any:
        if "bad" in items:
            raise KeyError("bad")
        return None

    futures = [f("a", 7), f("b", 7), f("bad", 7)]
    f.flush(LIMIT)
    assert [x.result(0) for x in futures[:2]] == ["again", "again"]
    with pytest.raises(ValueError):
        futures[2].result(0)
    (failure,) = seen
    assert isinstance(failure.exception, KeyError)
    assert (failure.items, failure.args, failure.kwargs) == (["a", "b", "bad"], (7,), {})
    assert failure.batched is f


def test_on_error_of_a_method_has_the_bound_function() -> None:
    def handler(failure: BatchFailure) -> Any:
        return [failure.function.__self__.name, failure.batched.stats().running]

    class Owner:
        name = "owner"

        @batched(on_error=handler, linger=None)
        def m(self, items: list[int]) -> Any:
            raise ValueError

    owner = Owner()
    futures = [owner.m(1), owner.m(2)]
    owner.m.flush(LIMIT)
    assert [x.result(0) for x in futures] == ["owner", 2]


def test_an_async_handler_for_an_async_function() -> None:
    async def handler(failure: BatchFailure) -> Any:
        return [type(failure.exception).__name__] * len(failure.items)

    @batched(on_error=handler)
    async def f(items: list[int]) -> list[Any]:
        raise ValueError

    assert f(1).result(LIMIT) == "ValueError"


def test_a_handler_that_raises_leaves_the_error_and_a_note(caplog: Any) -> None:
    def handler(failure: BatchFailure) -> Any:
        raise KeyError("secret")

    @batched(on_error=handler)
    def f(items: list[int]) -> list[Any]:
        raise ValueError("it")

    with pytest.raises(ValueError, match="it") as caught:
        f(1).result(LIMIT)
    assert any("KeyError" in note for note in caught.value.__notes__)
    assert "KeyError" in caplog.text
    assert "secret" not in caplog.text
    with pytest.raises(ValueError):
        f(1).result(LIMIT)


def test_generators_settle_each_item_as_it_comes() -> None:
    import threading

    go_on = threading.Event()

    @batched(size=2, linger=None)
    def stream(items: list[int]) -> Any:
        yield items[0]
        assert go_on.wait(LIMIT)
        yield items[1]

    one, two = stream(1), stream(2)
    assert one.result(LIMIT) == 1
    assert not two.done()
    go_on.set()
    assert two.result(LIMIT) == 2


def test_the_function_may_change_its_list() -> None:
    @batched(linger=None)
    def f(items: list[int]) -> dict[int, int]:
        given = dict.fromkeys(items, 1)
        items.clear()
        return given

    futures = [f(n) for n in range(3)]
    f.flush(LIMIT)
    assert [x.result(0) for x in futures] == [1, 1, 1]


class Hostile:
    """An item that cannot be compared, hashed, tested or shown."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        raise AssertionError

    def __hash__(self) -> int:
        raise AssertionError

    def __bool__(self) -> bool:
        raise AssertionError

    def __repr__(self) -> str:
        raise AssertionError

    def __len__(self) -> int:
        raise AssertionError


def test_items_are_never_looked_at() -> None:
    f = batched(lambda items: [id(item) for item in items], linger=None)
    items = [Hostile() for _ in range(5)]
    futures = [f(item) for item in items]
    futures[1].cancel()
    f.flush(LIMIT)
    assert futures[0].result(0) == id(items[0])
    assert in_thread(f.batch, items).result() == [id(item) for item in items]
    nothing = f(None)
    f.flush(LIMIT)
    assert nothing.result(0) == id(None)


def test_a_def_that_gives_an_async_generator_is_a_bad_result() -> None:
    async def results(items: list[int]) -> Any:
        for item in items:
            yield item

    @batched
    def f(items: list[int]) -> Any:
        return results(items)

    with pytest.raises(BadResult, match="async_generator"):
        f(1).result(LIMIT)
