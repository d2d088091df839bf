"""Errors name the batched function or the option, and say what to write instead (contract 5)."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import pytest

from batchify import (
    BatchAborted,
    Closed,
    DeadlineExceeded,
    ItemTooHeavy,
    QueueFull,
    batched,
)

SECRET = "hunter2"


def insert_users(items: list[Any]) -> list[Any]:
    return items


class Store:
    @batched
    def save(self, items: list[Any]) -> list[Any]:
        return items

    @batched
    @classmethod
    def count(cls, items: list[Any]) -> list[Any]:
        return items

    @batched
    @staticmethod
    def check(items: list[Any]) -> list[Any]:
        return items


async def ainsert_users(items: list[Any]) -> list[Any]:
    return items


def unused(function: Callable[..., Any], **options: Any) -> Any:
    return batched(function, **options)


def used(function: Callable[..., Any], **options: Any) -> Any:
    """Return a batched function after its first calls, which take another path than later ones."""
    f = batched(function, **options)
    assert f(1).result(60) == 1
    assert f(2).result(60) == 2
    return f


# ---- a call without an item ----

NO_ITEM = r"^{}\(\) (takes the item as its first|missing 1 required) positional argument"


@pytest.mark.parametrize("made", [unused, used])
@pytest.mark.parametrize("function", [insert_users, ainsert_users])
@pytest.mark.parametrize("given", [{}, {"users": [SECRET]}, {"items": [SECRET]}])
def test_a_call_without_an_item_names_the_function(
    made: Callable[..., Any], function: Callable[..., Any], given: dict[str, Any]
) -> None:
    f = made(function)
    with pytest.raises(TypeError, match=NO_ITEM.format(function.__name__)) as caught:
        f(**given)
    assert SECRET not in str(caught.value)
    assert f(3).result(60) == 3


def test_the_first_call_without_an_item_says_what_to_write() -> None:
    with pytest.raises(
        TypeError, match=r"^insert_users\(\) takes the item as its first positional argument$"
    ):
        batched(insert_users)()


def test_on_a_loop_too() -> None:
    async def main() -> None:
        f = batched(ainsert_users)
        assert await f(1) == 1
        for call in (f, f.submit, f.submit_nowait, f.options(timeout=1)):
            with pytest.raises(TypeError, match=r"^ainsert_users"):
                call()
        with pytest.raises(TypeError, match=r"^ainsert_users\.asubmit\(\) takes the item"):
            await f.asubmit()

    asyncio.run(main())


@pytest.mark.parametrize("call", ["submit", "submit_nowait", "asubmit"])
@pytest.mark.parametrize("given", [{}, {"item": SECRET}])
@pytest.mark.parametrize("view", [lambda f: f, lambda f: f.options(priority=1)])
def test_the_other_ways_to_submit_name_the_function(
    call: str, given: dict[str, Any], view: Callable[[Any], Any]
) -> None:
    f = batched(insert_users)
    expected = rf"^insert_users\.{call}\(\) takes the item as its first positional argument$"
    if call == "asubmit":
        with pytest.raises(TypeError, match=expected):
            asyncio.run(view(f).asubmit(**given))
    elif call == "submit" and view(f) is not f:
        with pytest.raises(TypeError, match=NO_ITEM.format("insert_users")):
            view(f).submit(**given)
    else:
        with pytest.raises(TypeError, match=expected):
            getattr(view(f), call)(**given)


@pytest.mark.parametrize(
    ("lookup", "name"),
    [
        (lambda: Store().save, r"Store\.save"),
        (lambda: Store.count, r"Store\.count"),
        (lambda: Store.check, r"Store\.check"),
    ],
)
def test_methods_are_named_too(lookup: Callable[[], Any], name: str) -> None:
    for call in (lookup(), lookup().submit, lookup().options(priority=1)):
        with pytest.raises(TypeError, match=rf"^{name}(\.submit)?\(\) takes the item as its first"):
            call()


def test_callable_objects_and_partials_are_named() -> None:
    class Insert:
        def __call__(self, items: list[Any]) -> list[Any]:
            return items

    for made in (unused, used):
        with pytest.raises(TypeError, match=r"Insert\(\) "):
            made(Insert())()
        with pytest.raises(TypeError, match=r"^insert_users\(\) "):
            made(functools.partial(insert_users))()


def test_nothing_is_submitted_by_it() -> None:
    f = used(insert_users)
    for call in (f, f.submit, f.submit_nowait, f.options(timeout=1)):
        with pytest.raises(TypeError):
            call()
    assert f.stats().submitted == 2


def test_a_framework_that_passes_arguments_by_name() -> None:
    fastapi = pytest.importorskip("fastapi")
    testclient = pytest.importorskip("fastapi.testclient")
    app = fastapi.FastAPI()
    f = batched(insert_users)
    app.get("/")(lambda result=fastapi.Depends(f): result)
    with (
        testclient.TestClient(app) as client,
        pytest.raises(TypeError, match=r"^insert_users\(\) takes the item as its first"),
    ):
        client.request("GET", "/", json=[1])


def test_extra_arguments_that_the_function_does_not_take() -> None:
    f = batched(insert_users)
    with pytest.raises(TypeError, match=r"^insert_users takes one item and no extra.*got 2;"):
        f(1, SECRET, level=SECRET)


# ---- unknown options ----


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("batch_size", "size"),
        ("max_batch_size", "size"),
        ("max_size", "size"),
        ("maxsize", "size"),
        ("timeout", "linger"),
        ("batch_wait_timeout", "linger"),
        ("batch_wait_timeout_s", "linger"),
        ("max_latency", "linger"),
        ("max_latency_ms", "linger"),
        ("wait", "linger"),
        ("max_workers", "workers"),
        ("concurrency", "workers"),
        ("max_queue_size", "capacity"),
        ("max_pending", "capacity"),
        ("group_by", "key"),
        ("error_handler", "on_error"),
        ("pool", "executor"),
    ],
)
def test_an_option_of_other_libraries_says_which_is_meant(given: str, meant: str) -> None:
    expected = rf"^batched\(\) has no argument '{given}': write {meant}=\.\.\., "
    for form in (
        lambda **options: batched(**options),
        lambda **options: batched(insert_users, **options),
    ):
        with pytest.raises(TypeError, match=expected):
            form(**{given: 1})


@pytest.mark.parametrize(
    ("given", "meant"),
    [("sise", "size"), ("lingre", "linger"), ("worker", "workers"), ("capacty", "capacity")],
)
def test_a_misspelled_option_says_which_is_close(given: str, meant: str) -> None:
    with pytest.raises(TypeError, match=rf"'{given}': did you mean {meant}\?$"):
        batched(**{given: 1})


def test_an_option_that_is_like_none_lists_all() -> None:
    with pytest.raises(TypeError, match=r"'qqq': it takes size, linger, workers, capacity, key"):
        batched(qqq=1)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        ("caller_runs", r"it was removed.*leave it out"),
        ("deadline", r"f\.options\(deadline=\.\.\.\)\(item\)"),
        ("priority", r"f\.options\(priority=\.\.\.\)\(item\)"),
        ("timeout", r"f\.options\(timeout=\.\.\.\)"),
        ("retries", r"Retry\(\).*tenacity"),
    ],
)
def test_what_belongs_elsewhere_says_where(given: str, answer: str) -> None:
    with pytest.raises(TypeError, match=answer):
        batched(**{given: 1})


def test_a_size_without_its_name() -> None:
    with pytest.raises(TypeError, match=r"write @batched\(size=500\)$"):
        batched(500)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"by name: write batched\(function, size=500\)"):
        batched(insert_users, 500)  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("dedline", "did you mean deadline?"),
        ("timout", "did you mean timeout?"),
        ("linger", "write linger=... in the decorator"),
        ("qqq", "it takes timeout, deadline, priority"),
    ],
)
def test_an_unknown_option_of_a_call(given: str, told: str) -> None:
    f = batched(insert_users)
    with pytest.raises(TypeError) as caught:
        f.options(**{given: 1})
    assert str(caught.value) == f"insert_users.options() has no argument '{given}': {told}"
    with pytest.raises(TypeError, match=r"^Store\.save\.options\(\) has no"):
        Store().save.options(**{given: 1})


@pytest.mark.parametrize("call", ["map", "amap"])
def test_an_unknown_argument_of_map(call: str) -> None:
    f = batched(insert_users)
    with pytest.raises(
        TypeError,
        match=rf"^insert_users\.{call}\(\) has no argument 'windw': did you mean window\?$",
    ):
        getattr(f, call)([], windw=1)


@pytest.mark.parametrize("call", ["map", "amap"])
def test_items_that_cannot_be_iterated(call: str) -> None:
    with pytest.raises(TypeError, match=r"^insert_users: items must be an iterable, got int$"):
        getattr(batched(insert_users), call)(7)


# ---- decorating twice ----


def wrapping(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize(
    "make",
    [
        lambda: batched(insert_users),
        lambda: Store().save,
        lambda: Store.save,
        lambda: Store.count,
        lambda: functools.partial(batched(insert_users)),
        lambda: functools.partial(Store().save),
        lambda: wrapping(batched(insert_users)),
        lambda: wrapping(wrapping(functools.partial(batched(insert_users)))),
        lambda: staticmethod(batched(insert_users)),
        lambda: classmethod(batched(insert_users)),
        lambda: batched(insert_users).options(priority=1),
    ],
)
def test_a_batched_function_cannot_be_decorated_again(make: Callable[[], Any]) -> None:
    for decorate in (batched, batched(size=2)):
        with pytest.raises(TypeError, match=r"is batched already: decorate it once$"):
            decorate(make())


def test_the_function_under_a_batched_one_can_be() -> None:
    f = batched(insert_users)
    assert batched(f.__wrapped__, size=2)(1).result(60) == 1
    assert batched(f.batch)(1).result(60) == 1


def test_a_function_that_wraps_itself_is_no_endless_loop() -> None:
    def f(items: list[Any]) -> list[Any]:
        return items

    f.__wrapped__ = f  # type: ignore[attr-defined]
    assert batched(f)(1).result(60) == 1


# ---- the queue ----


def hold() -> tuple[Any, threading.Event]:
    go = threading.Event()

    def insert_users(items: list[Any]) -> list[Any]:
        assert go.wait(60)
        return items

    return batched(insert_users, size=1, capacity=2), go


def test_a_full_queue_says_what_to_do() -> None:
    f, go = hold()
    futures = [f(SECRET), f(SECRET)]
    with pytest.raises(
        QueueFull,
        match=r"insert_users: the queue is full \(capacity=2\); raise capacity, or wait with "
        r"options\(timeout=\.\.\.\)$",
    ) as caught:
        f.submit_nowait(SECRET)
    assert SECRET not in str(caught.value)
    with pytest.raises(QueueFull, match=r"insert_users: the queue was still full \(capacity=2\)"):
        f.options(timeout=0)(SECRET)
    go.set()
    for future in futures:
        future.result(60)


def test_a_full_queue_on_a_loop() -> None:
    f, go = hold()

    async def main() -> None:
        futures = [f(1), f(2)]
        with pytest.raises(QueueFull, match="insert_users: the queue was still full"):
            await f.options(timeout=0)(3)
        go.set()
        for future in futures:
            await future

    asyncio.run(main())


def test_a_closed_function_is_named() -> None:
    f = used(insert_users)
    f.close()
    for call in (f, f.submit, f.submit_nowait, f.options(timeout=1)):
        with pytest.raises(Closed, match=r"^insert_users is closed.*start\(\)"):
            call(1)


def test_a_late_item_is_named() -> None:
    f, go = hold()
    first = f(1)
    late = f.options(deadline=0)(SECRET)
    with pytest.raises(DeadlineExceeded, match="insert_users: the item did not start before its"):
        late.result(60)
    go.set()
    first.result(60)


def test_an_item_that_is_too_heavy() -> None:
    f = batched(insert_users, weight=len, max_weight=3)
    with pytest.raises(ItemTooHeavy, match=r"^insert_users: .*more than max_weight \(3\); split"):
        f(SECRET)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": list}, "^insert_users: key must return something hashable, got list$"),
        ({"dedupe": list}, "^insert_users: dedupe must return something hashable, got list$"),
        (
            {"weight": list, "max_weight": 1},
            "^insert_users: weight must return a number, got list$",
        ),
        (
            {"weight": lambda item: -1, "max_weight": 1},
            "^insert_users: weight must return a number >= 0, got -1.0$",
        ),
        ({"dedupe": True}, "^insert_users: dedupe=True needs .*items.*got list"),
    ],
)
def test_a_wrong_value_from_an_option_names_function_and_option(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        batched(insert_users, **options)([SECRET])
    assert SECRET not in str(caught.value)


def test_unhashable_extra_arguments_say_what_to_pass() -> None:
    def insert_into(items: list[Any], columns: Any) -> list[Any]:
        return items

    with pytest.raises(TypeError, match=r"extra arguments of .*insert_into must be.*pass a tuple"):
        batched(insert_into)(1, [SECRET])


@pytest.mark.parametrize("call", ["flush", "close"])
def test_a_wait_that_takes_too_long_names_the_function(call: str) -> None:
    f, go = hold()
    future = f(1)
    with pytest.raises(TimeoutError, match=r"insert_users: 1 items were not done within"):
        getattr(f, call)(0)
    go.set()
    if call == "flush":
        future.result(60)


class CancellingExecutor(Executor):
    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.cancel()
        return future


def test_a_batch_that_its_executor_cancels_names_the_function() -> None:
    f = batched(insert_users, executor=CancellingExecutor())
    with pytest.raises(BatchAborted, match=r"^insert_users: the executor cancelled the batch"):
        f(1).result(60)


# ---- repr ----


def test_the_repr_of_a_function() -> None:
    f = batched(insert_users, size=500, linger=0.01)
    expected = f"<batched function {__name__}.insert_users (size=500, linger=0.01)>"
    assert repr(f) == str(f) == f"{f}" == expected
    f.size, f.linger = 7, None
    assert repr(f) == f"<batched function {__name__}.insert_users (size=7, linger=None)>"


def test_the_repr_of_a_partial_and_of_a_callable_object() -> None:
    class Insert:
        def __call__(self, items: list[Any]) -> list[Any]:
            return items

        def __repr__(self) -> str:
            return SECRET

    assert "insert_users (" in repr(batched(functools.partial(insert_users, SECRET)))
    assert SECRET not in repr(batched(functools.partial(insert_users, SECRET)))
    assert "Insert (size=" in repr(batched(Insert()))


def test_the_repr_of_a_view() -> None:
    view = batched(insert_users).options(deadline=2.5, priority=1)
    assert repr(view) == (
        f"<options(deadline=2.5, priority=1) of <batched function {__name__}.insert_users "
        "(size=64, linger=0)>>"
    )
    assert repr(batched(insert_users).options(timeout=0)).startswith("<options(timeout=0) of <")


# ---- a framework that passes its app ----


class App:
    def __repr__(self) -> str:
        return SECRET


@pytest.mark.parametrize("call", ["close", "aclose"])
def test_a_shutdown_hook_that_gets_the_app_says_what_to_register(call: str) -> None:
    f = used(insert_users)
    expected = (
        "timeout must be a number of seconds, a timedelta or None, got App; if a framework calls "
        "shutdown hooks with its app, register a function that takes the app and calls "
        rf"insert_users\.{call}\(\)"
    )
    with pytest.raises(TypeError, match=expected) as caught:
        if call == "close":
            f.close(App())
        else:
            asyncio.run(f.aclose(App()))
    assert SECRET not in str(caught.value)
    assert f(3).result(60) == 3  # nothing was closed by it


def test_litestar_shutdown() -> None:
    litestar = pytest.importorskip("litestar")
    from litestar.testing import TestClient

    f = used(insert_users)

    async def close(app: Any) -> None:
        await f.aclose()

    with TestClient(litestar.Litestar([], on_shutdown=[close])):
        assert f(3).result(60) == 3
    with pytest.raises(Closed):
        f(4)
