"""Servers that use a function and then fork workers: gunicorn, and the way of Celery."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from tests.exit_matrix import ROOT
from tests.limits import LIMIT

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")


APP = """
import os
from batchify import batched

def note(file, items):
    with open(file, "a") as out:
        out.write("".join(f"{os.getpid()} {item}\\n" for item in items))

@batched(size=4)
def double(items):
    return [2 * item for item in items]

@batched(size=4)
async def adouble(items):
    return [2 * item for item in items]

@batched(linger=1000)
def log(items):
    "Leaves at the end of the process only."
    note("done", items)

def accept(item):
    log(item)
    note("accepted", [item])

# The master uses all of them, before it forks; one item waits in its queue meanwhile.
assert double(1).result() == adouble(1).result() == 2
accept("master")
"""

GUNICORN = """
def app(environ, start_response):
    n = int(environ["QUERY_STRING"])
    accept(n)
    answer = f"{os.getpid()} {double(n).result()} {adouble(n).result()}"
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [answer.encode()]
"""

PREFORK = '''
import select, signal, sys

def serve(tasks):
    """A worker: takes tasks from the pipe that all share, until it is told to stop."""
    is_over = False

    def stop(*_):
        nonlocal is_over
        is_over = True

    signal.signal(signal.SIGTERM, stop)
    note("ready", ["worker"])
    while not is_over:
        if select.select([tasks], [], [], 0.05)[0]:
            try:
                task = os.read(tasks, 4)
            except BlockingIOError:  # another worker was faster
                continue
            n = int(task)
            accept(n)
            assert double(n).result() == adouble(n).result() == 2 * n
            note("served", [n])
    sys.exit(3)

tasks, write = os.pipe()
os.set_blocking(tasks, False)
workers = []
for _ in range(3):
    worker = os.fork()
    if not worker:
        serve(tasks)
    workers.append(worker)

def read(file):
    return open(file).read().splitlines() if os.path.exists(file) else []

def until(fact):
    import time
    end = time.monotonic() + 240
    while not fact():
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.01)

until(lambda: len(read("ready")) == 3)
for n in range(60):
    os.write(write, b"%4d" % n)
until(lambda: len(read("served")) == 60)
for worker in workers:
    os.kill(worker, signal.SIGTERM)
codes = [os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) for worker in workers]
assert codes == [3, 3, 3], codes
assert double(7).result() == adouble(7).result() == 14
'''

POOL = """
from billiard.pool import Pool

def serve(n):
    accept(n)
    assert double(n).result() == adouble(n).result() == 2 * n
    return n

def end(*_):
    log.close()

pool = Pool(2, on_process_exit=end)  # by which Celery sends `worker_process_shutdown`
assert pool.map(serve, range(60)) == list(range(60))
pool.close()
pool.join()
"""


def until(fact: Callable[[], object], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + LIMIT
    while not fact():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.02)


def start(where: Path, *command: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", *command],
        cwd=where,
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def expect_each_once(where: Path, count: int) -> None:
    """Check that the items of each process were run once, by that process."""
    accepted, done = Counter(lines(where / "accepted")), Counter(lines(where / "done"))
    assert accepted == done
    assert accepted.total() == len(accepted) == count


def expect_each_once_of(where: Path, program: str) -> None:
    """Check that one item of the master and 60 of the workers all succeed."""
    (where / "app.py").write_text(dedent(APP) + dedent(program))
    process = start(where, "app.py")
    told, _ = process.communicate(timeout=2 * LIMIT)
    assert (process.returncode, told) == (0, "")
    expect_each_once(where, 61)


def test_a_prefork_master_with_workers(tmp_path: Path) -> None:
    expect_each_once_of(tmp_path, PREFORK)
    assert len({line.split()[0] for line in lines(tmp_path / "done")}) >= 2


@pytest.mark.skipif(
    importlib.util.find_spec("billiard") is None,
    reason="billiard is not installed: pip install --group reliability",
)
def test_a_pool_of_billiard(tmp_path: Path) -> None:
    """Celery's workers exit by `os._exit`, so the shutdown code from its docs page is needed."""
    expect_each_once_of(tmp_path, POOL)


@pytest.mark.skipif(
    importlib.util.find_spec("gunicorn") is None,
    reason="gunicorn is not installed: pip install --group reliability",
)
def test_gunicorn_with_preload(tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(dedent(APP) + dedent(GUNICORN))
    process = start(
        tmp_path,
        *("-m", "gunicorn", "--preload", "--workers", "2", "--threads", "2"),
        *("--bind", "127.0.0.1:0", "--worker-tmp-dir", str(tmp_path), "--log-file", "log"),
        "served:app",
    )
    try:
        log = tmp_path / "log"
        port = re.compile(r"Listening at: http://127\.0\.0\.1:(\d+)")
        until(lambda: log.exists() and log.read_text().count("Booting worker") == 2, process)
        url = f"http://127.0.0.1:{port.search(log.read_text()).group(1)}/?"  # type: ignore[union-attr]
        pids = set()
        for n in range(40):
            with urllib.request.urlopen(f"{url}{n}", timeout=LIMIT) as answer:
                pid, once, again = answer.read().decode().split()
            assert int(once) == int(again) == 2 * n
            pids.add(pid)
        assert str(process.pid) not in pids
        process.send_signal(signal.SIGTERM)
        told, _ = process.communicate(timeout=LIMIT)
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == 0, told
    assert told == ""
    for noise in ("Traceback", "timeout", "[ERROR]"):
        assert noise not in log.read_text()
    expect_each_once(tmp_path, 41)
