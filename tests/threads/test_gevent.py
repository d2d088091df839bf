"""Greenlets instead of threads: what works, and which error says that something does not.

gevent changes the interpreter permanently, so each test runs in a separate process.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap

import pytest

from tests.limits import LIMIT

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gevent") is None, reason="gevent is not installed"
)


def run(program: str) -> str:
    """Return the output of `program`, which must end without help."""
    # gevent itself imports the modules that it patches, and emits several kinds of warnings.
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_patched_first_greenlets_share_batches() -> None:
    assert (
        run("""
        from gevent import monkey; monkey.patch_all()
        import gevent, threading
        from batchify import Deadlock, batched

        sizes = []

        @batched(linger=0.01, workers=2)
        def f(items):
            sizes.append(len(items))
            gevent.sleep(0.001)
            return [item * 2 for item in items]

        # Half of them find no capacity, and wait without stopping the others.
        f.capacity = 64
        calls = [gevent.spawn(lambda n=n: f(n).result(240)) for n in range(500)]
        gevent.joinall(calls, raise_error=True)
        assert [call.value for call in calls] == [n * 2 for n in range(500)]
        assert len(sizes) < 400, sizes
        assert list(f.map(range(100))) == [n * 2 for n in range(100)]
        assert f.stats().accepted == f.stats().succeeded
        f.close(240)
        f.start()
        last = f(1)  # run at the exit
        last.add_done_callback(lambda future: print(future.result()))
    """)
        == "2\n"
    )


def test_patched_first_a_loop_works_in_its_greenlet() -> None:
    assert (
        run("""
        from gevent import monkey; monkey.patch_all()
        import asyncio
        from batchify import batched

        @batched
        async def f(items):
            await asyncio.sleep(0.001)
            return [item * 2 for item in items]

        async def main():
            return await asyncio.gather(*(f(n) for n in range(100)))

        assert asyncio.run(main()) == [n * 2 for n in range(100)]
    """)
        == ""
    )


def test_patched_first_an_async_function_needs_a_loop() -> None:
    assert run("""
        from gevent import monkey; monkey.patch_all()
        from batchify import batched

        @batched
        async def f(items):
            return items

        try:
            f(1)
        except RuntimeError as error:
            print(error)
    """).startswith("an async function is called without a running event loop")


def test_patched_too_late_says_so() -> None:
    assert "gevent has patched the threads after batchify was imported" in run("""
        from batchify import batched

        from gevent import monkey; monkey.patch_all()

        @batched
        def f(items):
            return items

        try:
            f(1)
        except RuntimeError as error:
            print(error)
        assert f.stats().rejected == 1
    """)


def test_batches_continue_in_their_threads_after_a_late_patch() -> None:
    assert (
        run("""
        from batchify import batched

        @batched(workers=4)
        def f(items):
            return items

        assert f(1).result(240) == 1
        from gevent import monkey; monkey.patch_all()
        assert [f(n).result(240) for n in range(100)] == list(range(100))
        assert f.stats().workers == 1
    """)
        == ""
    )


def test_sockets_alone_may_be_patched() -> None:
    assert (
        run("""
        from batchify import batched
        from gevent import monkey; monkey.patch_all(thread=False)

        @batched
        def f(items):
            return items

        assert f(1).result(240) == 1
    """)
        == ""
    )


def test_a_greenlet_of_a_batch_may_call_its_function() -> None:
    """As SQLAlchemy's do for asyncio; nothing is patched."""
    assert (
        run("""
        import greenlet
        from batchify import batched

        def work(items):
            ran.append(items)
            if items == [1]:
                greenlet.greenlet(lambda: f(2).result(240)).switch()
            return [10 * item for item in items]

        ran = []
        f = batched(work, size=1, workers=2)
        try:
            print(f(1).result(240), ran)
        except Exception as error:
            print(repr(error))
    """)
        == "10 [[1], [2]]\n"
    )
