"""`broker=RedisStreams(...)`: worker processes that stop, are killed or lose their caller."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from batchify import DeadLetter, Forked, batched
from batchify.worker import dead_letters
from tests.limits import LIMIT
from tests.redis_server import PROGRAM, RedisServer
from tests.remote.on_redis import Workers, called_by, held, leased, until, working

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="redis-server is not installed"),
    # redis-py relies on the garbage collector to close broken connections.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

ROOT = Path(__file__).parent.parent.parent


def test_worker_processes_and_a_graceful_stop(server: RedisServer, tmp_path: Path) -> None:
    call = called_by(server.url, "slow")
    with Workers(server.url, "slow", tmp_path / "log") as workers:
        one = workers.start("--workers", "2")
        futures = [call(row) for row in range(300)]
        until(lambda: any(future.done() for future in futures))
        one.send_signal(signal.SIGTERM)  # in the middle of batches
        assert one.wait(LIMIT) == 0
        assert leased(call._options().broker, call) == 0
        groups: Any = (
            call._options()
            .broker.client()
            .xinfo_consumers(call._options().broker.keys(call._plain()).stream, "workers")
        )
        assert groups == []
        workers.start()
        assert [future.result(LIMIT) for future in futures] == [2 * row for row in range(300)]
    ran = Counter((tmp_path / "log").read_text().split())
    assert set(ran.values()) == {1}


def producer(url: str, start: int, count: int) -> list[Any]:
    call = called_by(url, "slow")
    return list(call.map(range(start, start + count), window=2000, return_exceptions=True))


def kill_at_random(workers: Workers, log: Path, rng: random.Random, kills: int) -> int:
    """Kill a worker after every few hundred items, so that there is progress on any machine."""
    killed, ran = 0, 0
    while killed < kills:
        ran += rng.randint(100, 400)
        until(lambda: log.exists() and len(log.read_text().split()) >= ran)
        time.sleep(rng.uniform(0, 0.06))  # not always at the same instant of a batch
        victim = workers.running.pop(rng.randrange(len(workers.running)))
        victim.kill()
        victim.wait(LIMIT)
        assert victim.stderr is not None
        victim.stderr.close()
        killed += 1
        workers.start()
    return killed


@pytest.mark.deep
@pytest.mark.timeout(900)
def test_killed_workers_lose_nothing(server: RedisServer, tmp_path: Path) -> None:
    """Three callers, two workers, `kill -9` in the middle of batches.

    By hand with 36 000 items:
    BATCHIFY_TEST_ITEMS=36000 pytest tests/remote/test_redis_processes.py -k killed
    """
    items = int(os.environ.get("BATCHIFY_TEST_ITEMS", "6000"))
    log = tmp_path / "log"
    each = items // 3
    with (
        Workers(server.url, "slow", log, lease=1.5) as workers,
        ProcessPoolExecutor(3) as callers,
        ThreadPoolExecutor(1) as pool,
    ):
        workers.start()
        workers.start()
        calls = [callers.submit(producer, server.url, n * each, each) for n in range(3)]
        killer = pool.submit(kill_at_random, workers, log, random.Random(7), 4)
        for n, call in enumerate(calls):
            assert call.result(LIMIT) == [2 * row for row in range(n * each, (n + 1) * each)]
        killed = killer.result(LIMIT)
    ran = Counter(log.read_text().split())
    assert len(ran) == items  # nothing lost
    twice = sum(count - 1 for count in ran.values())
    print(f"{items} items, {killed} workers killed, {twice} items run twice")
    assert killed == 4
    assert twice <= killed * 100  # at most the killed batches


@pytest.mark.deep
def test_an_item_that_kills_its_workers_is_buried_alone(
    server: RedisServer, tmp_path: Path
) -> None:
    call = called_by(server.url, "deadly")
    is_over = threading.Event()

    def look_after(workers: Workers) -> int:
        """Restart workers that die, as a supervisor does."""
        deaths = 0
        while not is_over.wait(0.01):
            if workers.running[-1].poll() is not None:
                deaths += 1
                workers.start()
        return deaths

    with Workers(server.url, "deadly", tmp_path / "log", lease=1.0) as workers:
        futures = {row: call(row) for row in range(60)}
        until(lambda: held(call._options().broker, call) == 60)
        workers.start()
        with ThreadPoolExecutor(1) as pool:
            deaths = pool.submit(look_after, workers)
            errors = {row: future.exception(LIMIT) for row, future in futures.items()}
            is_over.set()
            assert deaths.result(LIMIT) == 4  # max_deliveries
        assert {row for row, error in errors.items() if error} == {13}
        assert type(errors[13]) is DeadLetter
        command = [sys.executable, "-m", "batchify", "dead", "tests.redis_app:deadly"]

        def dead(*arguments: str, status: int = 0) -> str:
            done = subprocess.run(
                [*command, *arguments], env=workers.environment, cwd=ROOT, capture_output=True,
                text=True,
            )  # fmt: skip
            assert done.returncode == status
            return done.stdout

        listed = dead().split()
        assert listed[-4:] == ["delivered", "4", "times", "[13]"]
        assert dead("--whole") == dead()
        assert dead("--requeue", "1-1", status=1) == "0 requeued\n"
        assert len(dead_letters(call)) == 1
        assert dead("--requeue", listed[0]) == "1 requeued\n"
        assert len(dead_letters(call)) == 0
        until(lambda: workers.running[-1].poll() is not None)  # it kills the next one
        assert held(call._options().broker, call) == 1
        assert dead("--delete") == "0 deleted\n"


@pytest.mark.deep
def test_a_lease_is_renewed_while_the_batch_runs(broker: Any) -> None:
    runs: list[int] = []

    @batched(size=1, broker=broker(lease=2.0))
    def slow(rows: list[int]) -> list[int]:
        runs.extend(rows)
        time.sleep(5.0)
        return rows

    with working(slow, slow):
        assert slow(1).result(LIMIT) == 1
    assert runs == [1]


def test_items_of_lost_workers_run_again_in_shrinking_batches(broker: Any) -> None:
    sizes: list[int] = []

    @batched(size=64, broker=broker(lease=2.0))
    def same(rows: list[int]) -> list[int]:
        sizes.append(len(rows))
        return rows

    streams = same._options().broker
    futures = [same(row) for row in range(64)]
    until(lambda: held(streams, same) == 64)
    lost = streams.consumer(same._plain())  # a worker that takes all items and then disappears
    assert len(lost.take(64, 1)) == 64
    lost.stop()
    time.sleep(2.1)
    with working(same):
        assert [future.result(LIMIT) for future in futures] == list(range(64))
    # A free worker may take a part of a chunk before the rest of the chunk has arrived.
    assert sum(sizes) == 64
    assert max(sizes) <= 8


def test_answers_for_a_caller_that_is_gone_expire(server: RedisServer, tmp_path: Path) -> None:
    code = (
        "import os; from tests.redis_app import broker, double; double(1)\n"
        "stream = broker.keys(double._plain()).stream\n"
        "while not broker.client().xlen(stream): pass\n"
        "os._exit(0)"
    )
    with Workers(server.url, "double", tmp_path / "log") as workers:
        subprocess.run(
            [sys.executable, "-c", code],
            env=workers.environment,
            cwd=ROOT,
            check=True,
            timeout=LIMIT,
        )
        workers.start()
        call = called_by(server.url, "double")
        client = call._options().broker.client()
        pattern = "{batchify:tests.redis_app.double}:answers:*"
        until(lambda: list(client.scan_iter(pattern)))
        for key in client.scan_iter(pattern):
            assert 0 < client.pttl(key) <= 60_000


def test_a_process_that_ends_has_sent_its_items(server: RedisServer, tmp_path: Path) -> None:
    code = "from tests.redis_app import adouble\nfor n in range(1000): adouble(n)"
    log = tmp_path / "log"
    with Workers(server.url, "adouble", log) as workers:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code], env=workers.environment, cwd=ROOT,
            check=True, timeout=LIMIT, capture_output=True, text=True,
        )  # fmt: skip
        assert (done.stdout, done.stderr) == ("", "")
        workers.start()
        until(lambda: log.exists() and len(log.read_text().split()) == 1000)


@pytest.mark.parametrize("max_length", [1000, None])
def test_a_forked_child_sends_its_own(broker: Any, max_length: int | None) -> None:
    @batched(broker=broker(max_length=max_length))
    def double(rows: list[int]) -> list[int]:
        return [2 * row for row in rows]

    before = double(1)
    until(before.running)
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        told = "?"
        try:
            is_forked = isinstance(before.exception(0), Forked)
            told = f"{is_forked} {double(5).result()}"
        except BaseException as error:
            told = repr(error)
        finally:
            os.write(theirs, told.encode())
            os._exit(0)
    with working(double):
        assert before.result(LIMIT) == 2
        assert os.read(ours, 1000) == b"True 10"
    os.waitpid(pid, 0)
    os.close(ours)
    os.close(theirs)


def test_the_main_script_is_found_by_its_name(server: RedisServer, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "import os\nfrom batchify import batched\nfrom batchify.redis import RedisStreams\n"
        "@batched(broker=RedisStreams(os.environ['BATCHIFY_TEST_REDIS']))\n"
        "def triple(rows):\n    return [3 * row for row in rows]\n"
        "if __name__ == '__main__':\n    print(triple(5).result())\n"
    )
    environment = {**os.environ, "BATCHIFY_TEST_REDIS": server.url, "PYTHONPATH": str(ROOT)}
    worker = subprocess.Popen(
        [sys.executable, "-m", "batchify", "worker", "script:triple"],
        env=environment, cwd=tmp_path, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        done = subprocess.run(
            [sys.executable, "script.py"], env=environment, cwd=tmp_path, check=True, timeout=LIMIT,
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.stdout == "15\n"
        worker.send_signal(signal.SIGINT)
        assert worker.wait(LIMIT) == 0
    finally:
        worker.kill()
        worker.communicate()
