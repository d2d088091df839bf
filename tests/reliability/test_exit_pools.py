"""Batches that run during exit can use pools, name resolution and child processes: contract 6.

Each test runs a script whose items still linger when it ends. Every function records its rows in a
file. All rows must be there, whenever the script imports the modules that its batches use.
"""

from __future__ import annotations

import sys
from collections import Counter
from itertools import product
from pathlib import Path

import pytest

from batchify.interpreter import has_gil
from tests.own_process import output_of_script

LIMIT = 120.0  # seconds after which a script counts as hung
# gh-113964: on 3.12.0 to 3.12.2 no thread and no fork starts once the main process exits.
NO_LATE_THREADS = (3, 12, 0) <= sys.version_info < (3, 12, 3)

IMPORTS = "import asyncio, concurrent.futures.thread, concurrent.futures.process"

SCRIPT = '''
import multiprocessing, os, subprocess, sys
{early}
from batchify import batched

ITEMS = 3
WAYS = {ways}

def note(way, items):
    """Write all rows at once, so that threads and processes do not mix their lines."""
    with open("rows", "a") as out:
        out.write("".join(f"{{way}} {{item}}\\n" for item in items))

def by_threads():
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(abs, [-1]))

def by_to_thread():
    import asyncio
    return [asyncio.run(asyncio.to_thread(abs, -1))]

def by_resolver():
    import asyncio
    async def resolve():
        return await asyncio.get_running_loop().getaddrinfo("localhost", 80)
    return [bool(asyncio.run(resolve()))]

def import_before_fork():
    # CPython: a fork that meets the first import of this module in another thread releases a lock
    # that it never took, and the other thread fails.
    import concurrent.futures.thread

def by_processes():
    import_before_fork()
    from concurrent.futures import ProcessPoolExecutor
    with ProcessPoolExecutor(1) as pool:
        return list(pool.map(abs, [-1]))

def by_child():
    import_before_fork()
    queue = multiprocessing.SimpleQueue()
    # Not a function of this script: spawned children cannot find those once it has ended, as
    # Python removes `__main__.__file__`.
    child = multiprocessing.Process(target=queue.put, args=(1,))
    child.start()
    child.join()
    return [queue.get()]

def by_command():
    return [subprocess.run([sys.executable, "-S", "-c", ""]).returncode + 1]

async def by_to_thread_async():
    import asyncio
    return [await asyncio.to_thread(abs, -1)]

async def by_resolver_async():
    import asyncio
    return [bool(await asyncio.get_running_loop().getaddrinfo("localhost", 80))]

async def by_threads_async():
    import asyncio
    return [await asyncio.get_running_loop().run_in_executor(None, abs, -1)]

async def by_processes_async():
    import_before_fork()
    import asyncio
    from concurrent.futures import ProcessPoolExecutor
    with ProcessPoolExecutor(1) as pool:
        return [await asyncio.get_running_loop().run_in_executor(pool, abs, -1)]

async def by_command_async():
    import asyncio
    process = await asyncio.create_subprocess_exec(sys.executable, "-S", "-c", "")
    return [await process.wait() + 1]

def make(way):
    use = globals()["by_" + way]
    if way.endswith("async"):
        @batched(linger=1000, name=way)
        async def f(items):
            assert await use() == [1]
            note(way, items)
    else:
        @batched(linger=1000, name=way)
        def f(items):
            assert use() == [1]
            note(way, items)
    return f

kept = []

def fill(imports=""):
    functions = [make(way) for way in WAYS]
    for f in functions:
        kept.append(f)
        for item in range(ITEMS):
            f(item)
    exec(imports)

def in_a_child(method):
    child = multiprocessing.get_context(method).Process(target=fill, args=({late!r},))
    child.start()
    child.join()
    assert child.exitcode == 0, child.exitcode

if __name__ == "__main__":
    where = sys.argv[1]
    if where == "main":
        fill({late!r})
    elif where == "os.fork":
        first = batched(lambda items: items)
        assert first(1).result() == 1
        child = os.fork()
        if child:
            status = os.waitpid(child, 0)[1]
            assert os.waitstatus_to_exitcode(status) == 0, status
        else:
            fill({late!r})
    else:
        in_a_child(where)
'''

DEF = ("threads", "to_thread", "resolver", "processes", "child", "command")
ASYNC = (
    "threads_async",
    "to_thread_async",
    "resolver_async",
    "processes_async",
    "command_async",
)
WHEN = ("before decorating", "after the first call", "in the batch")
WHERE = ("main", "os.fork", "fork", "spawn", "forkserver")


def expect_all_rows(where: Path, process: str, when: str, ways: tuple[str, ...]) -> None:
    early = IMPORTS if when == "before decorating" else ""
    late = IMPORTS if when == "after the first call" else ""
    script = SCRIPT.format(early=early, late=late, ways=ways)
    # 3.12 warns of forks with threads.
    options = ("-W", "ignore:This process:DeprecationWarning")
    output_of_script(where, script, process, options=options)
    rows = where / "rows"
    written = Counter(rows.read_text().splitlines() if rows.exists() else [])
    assert written == Counter(f"{way} {item}" for way in ways for item in range(3))


FORKS = ("processes", "processes_async", "child")


def ways_of(process: str, ways: tuple[str, ...]) -> tuple[str, ...]:
    """Return the pools that this interpreter supports during exit."""
    if not has_gil():  # a child that is forked while other threads run may hang in CPython
        ways = tuple(way for way in ways if way not in FORKS)
    if NO_LATE_THREADS and process in ("main", "os.fork"):
        return tuple(way for way in ways if way == "command")
    return ways


@pytest.mark.parametrize("when", WHEN)
def test_batches_at_exit_use_pools_a_resolver_and_child_processes(
    tmp_path: Path, when: str
) -> None:
    expect_all_rows(tmp_path, "main", when, ways_of("main", (*DEF, *ASYNC)))


@pytest.mark.deep
@pytest.mark.parametrize(("process", "when"), list(product(WHERE[1:], WHEN)))
def test_batches_use_pools_at_the_exit_of_every_kind_of_process(
    tmp_path: Path, process: str, when: str
) -> None:
    expect_all_rows(tmp_path, process, when, ways_of(process, (*DEF, *ASYNC)))
