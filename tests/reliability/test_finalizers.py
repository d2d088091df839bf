"""Calls from finalizers run, or are refused at once: contract 6."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any
from weakref import ref

import pytest

from batchify import BatchFuture, Closed, batched
from batchify.interpreter import has_gil
from tests.own_process import output_of_script

LIMIT = 120.0  # seconds after which a script counts as hung
EXIT_TIMEOUT = 1000  # seconds: a call that waited at exit would be a hung script

# ---- at module teardown ----

SCRIPT = f"""
import atexit, sys, threading
from batchify import batched

KIND, STATE, CALL, PLACE = sys.argv[1:]

if KIND == "method":
    class Owner:
        @batched(exit_timeout={EXIT_TIMEOUT}, name="late")
        def f(self, items):
            return items
    f = Owner().f
elif KIND == "async def":
    @batched(exit_timeout={EXIT_TIMEOUT}, name="late")
    async def f(items):
        return items
else:
    @batched(exit_timeout={EXIT_TIMEOUT}, name="late")
    def f(items):
        return items

CALLS = {{
    "call": lambda f: f(1).result(),
    "submit": lambda f: f.submit(1).result(),
    "options": lambda f: f.options(deadline=60, priority=1)(1).result(),
    "map": lambda f: list(f.map([1])),
    "flush": lambda f: f.flush(),
    "close": lambda f: f.close(),
    "stats": lambda f: f.stats().pending,
}}

class Late:
    def __init__(self):
        self.f, self.call, self.out = f, CALLS[CALL], sys.stdout

    def __del__(self):
        try:
            told = self.call(self.f)
        except Exception as error:
            told = f"{{type(error).__name__}}: {{error}}"
        self.out.write(f"{{told}}\\n")
        self.out.flush()

if STATE == "called before":
    f(0).result()
late = Late()
if PLACE == "cycle":
    late.itself = late
elif PLACE == "builtins":
    import builtins
    builtins.late = late
"""


def told(where: Path, script: str, *arguments: str) -> str:
    """Run a script to its end, which must be quiet, and return its output."""
    return output_of_script(where, script, *arguments).rstrip()


REFUSED = ("call", "submit", "options", "map")
ANSWERS = {"flush": "None", "close": "None", "stats": "0"}
EVERY = list(
    product(
        ("def", "async def", "method"),
        ("called before", "never called"),
        (*REFUSED, *ANSWERS),
        ("global", "cycle", "builtins"),
    )
)


# Without a GIL, CPython 3.13 makes modules immortal when a second thread starts (gh-117783). At
# exit it then clears the names of all modules before the last finalizers, so any error may come,
# and cycles are not collected at all.
CLEARS_NAMES_FIRST = not has_gil() and sys.version_info < (3, 14)


def expect_an_answer_at_once(where: Path, kind: str, state: str, call: str, place: str) -> None:
    answer = told(where, SCRIPT, kind, state, call, place)
    if CLEARS_NAMES_FIRST and state == "called before":
        return  # the script has ended without output
    if call in ANSWERS:
        assert answer == ANSWERS[call]
    else:
        assert answer.startswith("Closed: late was called ")


@pytest.mark.parametrize(
    ("kind", "state", "call", "place"),
    [
        ("def", "called before", "call", "global"),
        ("def", "never called", "call", "cycle"),
        ("async def", "called before", "call", "builtins"),
        ("method", "called before", "call", "global"),
        ("def", "called before", "options", "builtins"),
        ("def", "called before", "close", "global"),
        ("def", "called before", "flush", "cycle"),
    ],
)
def test_a_finalizer_at_module_teardown(
    tmp_path: Path, kind: str, state: str, call: str, place: str
) -> None:
    expect_an_answer_at_once(tmp_path, kind, state, call, place)


@pytest.mark.deep
@pytest.mark.parametrize(("kind", "state", "call", "place"), EVERY)
def test_every_call_of_a_finalizer_at_module_teardown(
    tmp_path: Path, kind: str, state: str, call: str, place: str
) -> None:
    expect_an_answer_at_once(tmp_path, kind, state, call, place)


def test_an_atexit_function_that_comes_last_is_served(tmp_path: Path) -> None:
    script = """
        import atexit
        functions = []
        atexit.register(lambda: print(functions[0](1).result(), flush=True))

        from batchify import batched

        @batched(linger=1000)
        def f(items):
            return items

        functions.append(f)
        f.options(priority=1)(0)
    """
    assert told(tmp_path, script) == "1"


# ---- in a garbage cycle ----


class Late:
    """Calls a function when it goes, once `before` is over."""

    def __init__(self, f: Any, before: Callable[[], object]) -> None:
        self.f = f
        self.before = before
        self.itself = self
        self.ends: list[Any] = []

    def __del__(self) -> None:
        self.before()
        try:
            self.ends.append(self.f(1))
        except Exception as error:
            self.ends.append(error)


def end_of(fs: list[Any], before: Callable[[], object] = lambda: None) -> Any:
    """Return the result of a call from the finalizer of a cycle that contains the function.

    Args:
        fs: a list with the function, which is removed, because the caller must not keep it.
        before: called by the finalizer before its call.
    """
    late = Late(fs.pop(), before)
    ends = late.ends
    del late
    collect_until(lambda: bool(ends))
    return ends.pop()


def collect_until(is_true: Callable[[], bool]) -> None:
    """Collect garbage until `is_true()`: a worker may hold the cycle for a moment longer."""
    while not is_true():
        gc.collect()


def test_a_function_in_a_cycle_that_was_never_called_refuses() -> None:
    error = end_of([batched(lambda items: items, name="lookup")])
    assert isinstance(error, Closed)
    assert "lookup" in str(error)


def leave(name: str, engine: Any) -> Callable[[], None]:
    """Return a function that waits until the threads of a function have ended."""
    weak = ref(engine)

    def wait() -> None:
        if weak() is None:  # else a thread held it when the collector looked, and it is alive
            for thread in threading.enumerate():
                if thread.name.startswith(f"batchify:{name}:"):
                    thread.join()

    return wait


@pytest.mark.parametrize("linger", [0, 0.01])
def test_a_function_in_a_cycle_whose_worker_has_ended_runs_the_item(linger: float) -> None:
    name = f"gone-{linger}"
    fs = [batched(lambda items: items, name=name, linger=linger)]
    fs[0](0).result()
    future: BatchFuture[int] = end_of(fs, leave(name, fs[0]._scope()))
    assert future.result() == 1


def test_a_deadline_in_a_cycle_whose_threads_have_ended_runs_the_item() -> None:
    f = batched(lambda items: items, name="watched")
    wait = leave("watched", f._scope())
    fs = [f.options(deadline=1000)]
    del f
    fs[0](0).result()
    assert end_of(fs, wait).result() == 1


def test_a_method_in_a_cycle_runs_the_item() -> None:
    class Owner:
        @batched
        def f(self, items: list[int]) -> list[int]:
            return items

        def __del__(self) -> None:
            ends.append(self.f(1))

    ends: list[BatchFuture[int]] = []
    owner: Any = Owner()
    owner.itself = owner
    owner.f(0).result()
    del owner
    collect_until(lambda: bool(ends))
    assert ends.pop().result() == 1


def test_an_item_of_a_cycle_is_run_at_exit(tmp_path: Path) -> None:
    script = """
        import gc, threading, weakref
        from batchify import batched
        from batchify.interpreter import has_gil

        # Without a GIL, CPython may call finalizers before the callbacks of weak references.
        workers_leave = has_gil()

        class Late:
            def __del__(self):
                if workers_leave and self.weak() is None:  # else a thread held it just now
                    [worker.join() for worker in self.workers]
                self.f(1)

        late = Late()
        late.itself = late
        late.f = batched(lambda items: print(items, flush=True), linger=0.001)
        late.f(0).result()
        late.f.linger = 1000
        late.weak = weakref.ref(late.f._scope())
        main = threading.main_thread()
        late.workers = [one for one in threading.enumerate() if one is not main]
        weak = weakref.ref(late)
        del late
        while weak() is not None:  # a worker may hold the cycle for a moment longer
            gc.collect()
    """
    assert told(tmp_path, script) == "[0]\n[1]"
