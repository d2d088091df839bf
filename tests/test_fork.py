"""Forks, and child processes started in other ways: contract 6 (Fork) and 2 (pickled by name)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import faulthandler
import functools
import inspect
import multiprocessing
import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from batchify import BatchFuture, Closed, Forked, batched, waits
from tests import fork_matrix
from tests.chaos.process import MAY_FORK, NO_FORK
from tests.limits import LIMIT
from tests.manual import in_thread, until

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")


def in_child(work: Callable[[], Any]) -> Any:
    """Fork, call `work()` in the child, and return its result; fail with its error."""
    read, write = os.pipe()
    faulthandler.cancel_dump_traceback_later()  # its thread would be missed in a grandchild
    child = os.fork()
    if not child:
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        try:
            try:
                told = (True, work())
            except BaseException:
                told = (False, traceback.format_exc())
            os.write(write, pickle.dumps(told))
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    assert told, "the child hung, or died"
    is_done, result = pickle.loads(told)
    assert is_done, result
    return result


def ends_of(futures: list[BatchFuture[Any]]) -> list[str]:
    """Return how `futures` ended, asked without waiting, in every way."""
    ends = []
    for future in futures:
        assert future.done()
        assert not future.cancel()
        assert not future.running()
        error = future.exception(0)
        with pytest.raises(Forked) as caught:
            future.result(0)
        assert caught.value is error
        ends.append(type(error).__name__)
    return ends


class Used:
    """A used function, and the items that it ran in this process.

    Its gate is a flag, because a thread that the child lacks might hold a lock.
    """

    def __init__(self, kind: str = "def", **options: Any) -> None:
        self.ran: list[Any] = []
        self.is_open = True

        def work(items: list[Any]) -> list[Any]:
            self.ran += items
            while not self.is_open:
                time.sleep(0.001)
            return [("done", item) for item in items]

        async def awork(items: list[Any]) -> list[Any]:
            self.ran += items
            while not self.is_open:
                await asyncio.sleep(0.001)
            return [("done", item) for item in items]

        self.f = batched(work if kind == "def" else awork, **options)
        future = self.f("used")
        self.f.flush(LIMIT)
        assert future.result(0) == ("done", "used")

    def shut(self, *items: Any) -> list[Any]:
        """Submit `items` with the gate shut; return their futures once a batch runs."""
        self.is_open = False
        futures = [self.f(item) for item in items]
        until(lambda: len(self.ran) > 1)
        return futures

    def works_in_child(self) -> None:
        """Check that the child's engine is new and empty, and runs the child's items only."""
        f = self.f
        assert f.stats() == batched(lambda items: items).stats()
        self.is_open = True
        before = len(self.ran)
        futures = [f(("child", n)) for n in range(3)]
        f.flush(LIMIT)
        assert [x.result(0) for x in futures] == [("done", ("child", n)) for n in range(3)]
        assert self.ran[before:] == [("child", n) for n in range(3)]
        assert f.stats().accepted == f.stats().succeeded == 3


# ---- the state of the parent ----


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_fork_while_idle(kind: str) -> None:
    used = Used(kind)
    done = used.f("before")
    assert done.result(LIMIT) == ("done", "before")

    def child() -> Any:
        used.works_in_child()
        return done.result(0)

    assert in_child(child) == ("done", "before")
    assert used.f("after").result(LIMIT) == ("done", "after")
    assert used.ran == ["used", "before", "after"]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_fork_while_items_linger(kind: str) -> None:
    used = Used(kind, linger=1000)
    futures = [used.f(n) for n in range(3)]

    def child() -> list[str]:
        ends = ends_of(futures)
        used.works_in_child()
        return ends

    assert in_child(child) == ["Forked"] * 3
    assert used.f.stats().pending == 3
    used.f.flush(LIMIT)
    assert [future.result(0) for future in futures] == [("done", n) for n in range(3)]
    assert used.ran == ["used", 0, 1, 2]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_fork_in_the_middle_of_a_batch(kind: str) -> None:
    used = Used(kind, size=2)
    futures = used.shut(*range(5))

    def child() -> list[str]:
        ends = ends_of(futures)
        used.works_in_child()
        return ends

    assert in_child(child) == ["Forked"] * 5
    assert used.f.stats().running
    used.is_open = True
    used.f.flush(LIMIT)
    assert [future.result(0) for future in futures] == [("done", n) for n in range(5)]
    assert used.ran == ["used", *range(5)]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_fork_while_a_producer_is_blocked_on_a_full_queue(kind: str) -> None:
    used = Used(kind, size=1, capacity=2)
    futures = used.shut(0, 1)
    blocked = in_thread(used.f, 2)
    until(lambda: used.f.stats().submitted == 4)

    def child() -> list[str]:
        ends = ends_of(futures)
        used.works_in_child()
        return ends

    assert in_child(child) == ["Forked"] * 2
    assert not blocked.is_done()
    used.is_open = True
    futures.append(blocked.result())
    assert [future.result(LIMIT) for future in futures] == [("done", n) for n in range(3)]
    assert used.ran == ["used", 0, 1, 2]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_fork_inside_a_batch(kind: str) -> None:
    """The thread that ran the batch is the child's only one, and no worker any more."""
    other = Used()
    futures: list[BatchFuture[Any]] = []
    told = []

    def child() -> list[str]:
        ends = ends_of(futures)
        assert f.stats() == batched(work).stats()
        assert f("child").result(LIMIT) == ("done", "child")
        other.works_in_child()
        return ends

    def work(items: list[Any]) -> list[Any]:
        if items == ["forks"]:
            until(lambda: len(futures) == 2)
            told.append(in_child(child))
        return [("done", item) for item in items]

    async def awork(items: list[Any]) -> list[Any]:
        return work(items)

    f = batched(work if kind == "def" else awork, size=1)
    futures.append(f("forks"))
    futures.append(f("waits"))
    assert [x.result(LIMIT) for x in futures] == [("done", "forks"), ("done", "waits")]
    assert told == [["Forked", "Forked"]]


def test_fork_inside_a_callback() -> None:
    used = Used(size=1)
    first, second = used.shut(1, 2)
    told = []

    def child() -> list[str]:
        ends = [type(first.exception(0)).__name__, *ends_of([second])]
        used.works_in_child()
        return ends

    first.add_done_callback(lambda _: told.append(in_child(child)))
    used.is_open = True
    assert second.result(LIMIT) == ("done", 2)
    assert told == [["NoneType", "Forked"]]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_fork_on_a_running_loop(kind: str) -> None:
    used = Used(kind, linger=1000, capacity=70)

    async def main() -> list[str]:
        futures = [used.f(n) for n in range(64)]  # a full batch, that runs
        used.is_open = False
        while len(used.ran) < 65:
            await asyncio.sleep(0)
        futures += [used.f(n) for n in range(64, 75)]  # some that wait, some without capacity

        def child() -> list[str]:
            ends = ends_of(futures)
            used.works_in_child()
            return ends

        told = in_child(child)
        used.is_open = True
        await used.f.aflush(LIMIT)
        assert [await future for future in futures] == [("done", n) for n in range(75)]
        return told

    told = asyncio.run(main())
    assert told == ["Forked"] * 75
    assert used.ran == ["used", *range(75)]


def test_a_child_may_run_new_loops() -> None:
    used = Used("async def")

    async def main(who: str) -> Any:
        return await asyncio.gather(*(used.f((who, n)) for n in range(3)))

    asyncio.run(main("parent"))

    def child() -> Any:
        return asyncio.run(main("child")), used.f.stats().accepted

    assert in_child(child) == ([("done", ("child", n)) for n in range(3)], 3)
    assert asyncio.run(main("parent"))[2] == ("done", ("parent", 2))


def test_a_child_forks_again() -> None:
    used = Used(linger=1000)
    mine = used.f("parent")

    def child() -> Any:
        theirs = used.f("child")

        def grandchild() -> list[str]:
            ends = ends_of([mine, theirs])
            used.works_in_child()
            return ends

        told = in_child(grandchild)
        used.f.flush(LIMIT)
        return told, theirs.result(0)

    assert in_child(child) == (["Forked"] * 2, ("done", "child"))
    used.f.flush(LIMIT)
    assert mine.result(0) == ("done", "parent")


def test_an_engine_that_closes_can_be_started_in_the_child() -> None:
    used = Used()
    futures = used.shut(1)
    closing = in_thread(used.f.close)
    until(lambda: is_refused(used.f))

    def child() -> list[str]:
        used.f.start()
        used.is_open = True
        assert used.f("child").result(LIMIT) == ("done", "child")
        return ends_of(futures)

    assert in_child(child) == ["Forked"]
    used.is_open = True
    closing.result()
    assert futures[0].result(0) == ("done", 1)


def is_refused(f: Any) -> bool:
    try:
        f("probe").cancel()
    except Closed:
        return True
    return False


# ---- the matrix: children that exit ----


def expect_no_faults(cells: list[tuple[str, str]], forks: int) -> None:
    assert [pair for pair in fork_matrix.run_all(cells, forks) if pair[1]] == []


@pytest.mark.parametrize("moment", fork_matrix.MOMENTS)
def test_some_of_the_matrix(moment: str) -> None:
    expect_no_faults([cell for cell in fork_matrix.SOME if cell[0] == moment], 2)


@pytest.mark.deep
@pytest.mark.parametrize("moment", fork_matrix.MOMENTS)
def test_the_whole_matrix(moment: str) -> None:
    expect_no_faults([cell for cell in fork_matrix.ALL if cell[0] == moment], 5)


@pytest.mark.deep
def test_many_functions_that_are_gone() -> None:
    """A fork ignores unused functions, and they leave nothing behind."""
    import gc
    import tracemalloc

    from batchify.engine import lifecycle

    def make_many() -> None:
        for n in range(10_000):
            batched(lambda items: items, name="gone")
            batched(name="gone")(awork)
        gc.collect()

    async def awork(items: list[Any]) -> list[Any]:
        return items

    gc.collect()
    engines, hooks = len(lifecycle._engines), len(lifecycle._child_hooks)
    make_many()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        make_many()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 200_000  # 10 bytes for each
    assert len(lifecycle._engines) <= engines
    assert len(lifecycle._child_hooks) == hooks

    assert in_child(lambda: len(lifecycle._engines)) <= engines


# ---- copied futures ----


def test_callbacks_and_waiters_of_the_parent_stay_there() -> None:
    used = Used(linger=1000)
    future = used.f(1)
    called: list[int] = []
    future.add_done_callback(lambda _: called.append(os.getpid()))
    waiter = in_thread(future.result)

    def child() -> Any:
        used.works_in_child()
        late: list[str] = []
        future.add_done_callback(lambda done: late.append(type(done.exception(0)).__name__))
        return called, late

    assert in_child(child) == ([], ["Forked"])
    used.f.flush(LIMIT)
    assert waiter.result() == ("done", 1)
    assert called == [os.getpid()]


def test_copied_futures_are_done_for_every_reader() -> None:
    used = Used(linger=1000)
    futures = [used.f(n) for n in range(3)]
    wait = concurrent.futures.wait
    assert not wait(futures[:2], 0).done  # concurrent.futures looks at these two already

    async def await_them() -> list[Any]:
        return await asyncio.gather(
            *(asyncio.wrap_future(future) for future in futures), return_exceptions=True
        )

    async def await_one() -> str:
        try:
            return await futures[0]
        except Forked as error:
            return type(error).__name__

    def child() -> Any:
        done = len(wait(futures, LIMIT).done)
        ends = [type(error).__name__ for error in asyncio.run(await_them())]
        return done, ends, asyncio.run(await_one())

    assert in_child(child) == (3, ["Forked"] * 3, "Forked")
    used.f.flush(LIMIT)
    assert len(wait(futures, LIMIT).done) == 3


def test_forked_has_its_own_message() -> None:
    used = Used(linger=1000)
    future = used.f("secret-item")

    def child() -> Any:
        error = future.exception(0)
        return str(error), error is future.exception(0)

    text, is_same = in_child(child)
    assert "parent" in text
    assert "secret" not in text
    assert is_same
    used.f.flush(LIMIT)


# ---- any instant ----


@pytest.mark.skipif(not MAY_FORK, reason=NO_FORK)
def test_forks_at_any_instant_while_threads_submit() -> None:
    class Owner:
        @batched(size=3, capacity=7)
        def method(self, items: list[Any]) -> list[Any]:
            return items

        @batched
        async def amethod(self, items: list[Any]) -> list[Any]:
            return items

    one = Owner()
    is_over = False
    counts = [0, 0, 0]

    def work(who: int) -> None:
        while not is_over:
            futures = [one.method((who, n)) for n in range(10)]
            futures += [Owner().method((who, n)) for n in range(3)]
            futures.append(one.amethod(who))
            futures[9].cancel()
            assert all(x.cancelled() or x.result(LIMIT) for x in [*futures, one.amethod("x")])
            counts[who] += 1

    mine: list[BatchFuture[Any]] = []

    def child() -> Any:
        new = Owner()
        futures = [one.method(1), one.amethod(2), new.method(3), new.amethod(4)]
        pending = [future for future in mine if not future.done()]
        return [future.result(LIMIT) for future in futures], len(pending)

    calls = [in_thread(work, who) for who in (1, 2)]
    try:
        for _ in range(50):
            mine = [one.method(n) for n in range(20)]
            assert in_child(child) == ([1, 2, 3, 4], 0)
            assert [future.result(LIMIT) for future in mine] == list(range(20))
            before = list(counts)
            until(lambda before=before: counts[1] > before[1] and counts[2] > before[2])
    finally:
        is_over = True
    for call in calls:
        call.result()


def test_fork_while_another_thread_makes_the_first_call() -> None:
    """`inspect.signature` is asked by the first call, and may take its time."""
    begun, go_on = threading.Event(), threading.Event()
    parent = os.getpid()

    class Slow:
        @property
        def __signature__(self) -> inspect.Signature:
            if os.getpid() == parent:
                begun.set()
                assert go_on.wait(LIMIT)
            return inspect.Signature(
                [inspect.Parameter("items", inspect.Parameter.POSITIONAL_ONLY)]
            )

        def __call__(self, items: list[Any]) -> list[Any]:
            return items

    f = batched(Slow())
    call = in_thread(lambda: f(1).result(LIMIT))
    assert begun.wait(LIMIT)
    try:
        assert in_child(lambda: f(2).result(LIMIT)) == 2
    finally:
        go_on.set()
    assert call.result() == 1


# ---- multiprocessing ----

MODULE = """
import os
from batchify import batched

@batched(linger=1000)
def lingers(items):
    with open(os.path.join(os.path.dirname(__file__), "ran"), "a") as file:
        file.write("".join(f"{os.getpid()} {item}\\n" for item in items))
    return [(os.getpid(), item) for item in items]

@batched
async def aprompt(items):
    return [(os.getpid(), item) for item in items]

class Owner:
    def __init__(self, name):
        self.name = name

    @batched
    def method(self, items):
        return [(self.name, os.getpid(), item) for item in items]

def use(f, method, queue):
    assert f is lingers
    assert f.stats().submitted == 0, f.stats()
    assert not aprompt.stats().submitted, aprompt.stats()
    kept.append(f("child"))  # the end of the process runs it
    queue.put((aprompt(1).result(), method(2).result()))

kept = []
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    (tmp_path / f"batchify_by_{method}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, f"batchify_by_{method}", raising=False)
    module: Any = __import__(f"batchify_by_{method}")
    owner = module.Owner("owner")
    assert module.aprompt(0).result(LIMIT)[1] == owner.method(0).result(LIMIT)[2] == 0
    mine = module.lingers("parent")

    context: Any = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    child = context.Process(target=module.use, args=(module.lingers, owner.method, queue))
    child.start()
    child.join(LIMIT)
    assert child.exitcode == 0
    assert queue.get() == ((child.pid, 1), ("owner", child.pid, 2))
    queue.close()
    child.close()

    assert not mine.done()
    module.lingers.flush(LIMIT)
    pid = os.getpid()
    assert mine.result(0) == (pid, "parent")
    lines = (tmp_path / "ran").read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["child", "parent"]
    assert lines[1] == f"{pid} parent"
    module.lingers.close(LIMIT), module.aprompt.close(LIMIT), owner.method.close(LIMIT)


# ---- pickles ----


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


def test_fork_in_the_middle_of_a_change() -> None:
    """A worker takes a batch and keeps the lock: the fork continues without it."""
    inside, may_go_on, is_over = threading.Event(), threading.Event(), threading.Event()

    @batched
    def f(items: list[int]) -> list[int]:
        assert items == [0] or is_over.wait(LIMIT)
        return items

    assert f(0).result(LIMIT) == 0
    engine = f._scope().here()
    take = engine.forming.take

    def slow(*args: Any) -> Any:
        taken = take(*args)
        inside.set()
        assert may_go_on.wait(LIMIT)
        return taken

    engine.forming.take = slow
    future = f(1)
    assert inside.wait(LIMIT)
    assert in_child(lambda: ends_of([future])) == ["Forked"]
    may_go_on.set()
    is_over.set()
    assert future.result(LIMIT) == 1


def test_fork_while_another_thread_holds_the_lock() -> None:
    f = batched(lambda items: items)
    assert f(1).result(LIMIT) == 1
    lock = f._scope()._lock
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            let_go.wait(LIMIT)

    holder = in_thread(hold)
    assert held.wait(LIMIT)
    try:
        assert in_child(lambda: f(2).result(LIMIT)) == 2
    finally:
        let_go.set()
    holder.result()
    assert f(3).result(LIMIT) == 3


def test_fork_in_the_middle_of_a_change_of_one_that_waits_for_another() -> None:
    """A fork and a thread each hold a lock that the other needs: the fork releases its lock."""
    first = batched(lambda items: items, name="first")
    second = batched(lambda items: items, name="second")
    for f in (first, second):
        assert f(1).result(LIMIT) == 1
        f.flush(LIMIT)
    locks = [f._scope()._lock for f in (first, second)]
    has_begun, has_both = threading.Event(), threading.Event()

    def is_held(lock: Any) -> bool:
        if lock.acquire(blocking=False):
            lock.release()
            return False
        return True

    def hold() -> None:  # as a change of `second` in the middle of which a finalizer calls `first`
        with locks[1]:
            has_begun.set()
            until(lambda: is_held(locks[0]))  # by the fork, which is at `second` by now
            with locks[0]:
                has_both.set()

    holder = in_thread(hold)
    assert has_begun.wait(LIMIT)
    assert in_child(has_both.is_set)
    holder.result()


class Taken(dict[Any, Any]):
    """A dict that is locked in the child, as may happen on a build without a GIL."""

    parent = os.getpid()
    written: ClassVar[list[str]] = []


def _written(name: str) -> Any:
    method = getattr(dict, name)

    def write(self: Taken, *args: Any) -> Any:
        if os.getpid() != self.parent:
            self.written.append(name)
        return method(self, *args)

    return write


for _name in ("__setitem__", "__delitem__", "clear", "pop", "setdefault", "update", "copy"):
    setattr(Taken, _name, _written(_name))


def test_no_dict_that_threads_use_without_our_lock_is_written_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The child would wait forever for the lock of the dict."""

    @batched(linger=None)
    def f(items: list[int], extra: int = 0) -> list[int]:
        return items

    for name in ("serving_threads", "serving_tasks", "_waits_for"):
        monkeypatch.setattr(waits, name, Taken(getattr(waits, name)))
    engine = f._scope().here()
    for name in ("routes", "watched", "_ended"):
        setattr(engine, name, Taken(getattr(engine, name)))
    futures = [f(1), f(2, 3)]
    futures[0].add_done_callback(str)

    def child() -> Any:
        ends = ends_of(futures)
        new = f(4)
        f.flush(LIMIT)
        return ends, new.result(0), Taken.written

    assert in_child(child) == (["Forked", "Forked"], 4, [])
    f.close(LIMIT)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_finding_a_queue_takes_no_lock_of_a_dict(kind: str) -> None:
    """Otherwise a fork may leave it locked, as above. In threads only `get` locks it."""
    taken: list[Any] = []

    class Locked(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            taken.append(key)
            return super().get(key, default)

    class Owner:
        @batched
        def method(self, items: list[int]) -> list[int]:
            return items

        @batched
        async def amethod(self, items: list[int]) -> list[int]:
            return items

    owner = Owner()
    f = owner.method if kind == "def" else owner.amethod
    assert f(0).result(LIMIT) == 0
    scopes = f._self_parent._self_scopes
    scopes._by_owner = Locked(scopes._by_owner)
    if kind == "async def":
        f._scope()._engines = Locked(f._scope()._engines)
    again = owner.method if kind == "def" else owner.amethod
    assert again(1).result(LIMIT) == 1
    assert taken == []
    f.close(LIMIT)
