"""Workers on a real Redis server, in threads and in processes, for the tests of the broker."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from batchify import batched
from batchify.redis import RedisStreams
from batchify.worker import Worker
from tests.limits import LIMIT

ROOT = Path(__file__).parent.parent.parent


@contextlib.contextmanager
def working(*functions: Any, workers: int | None = None) -> Iterator[list[Worker]]:
    """Run workers in threads of this process."""
    made = [Worker(function, workers) for function in functions]
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(worker.run) for worker in made]
        try:
            yield made
        finally:
            for worker in made:
                worker.stop()
            for run in runs:
                assert run.result(LIMIT)


def leased(broker: RedisStreams, function: Any) -> int:
    client, keys = broker.client(), broker.keys(function._plain())
    if not client.exists(keys.stream) or not client.xinfo_groups(keys.stream):
        return 0
    found: Any = client.xpending(keys.stream, "workers")
    return int(found["pending"])


def held(broker: RedisStreams, function: Any) -> int:
    return int(broker.client().xlen(broker.keys(function._plain()).stream))


def until(fact: Callable[[], Any], limit: float = LIMIT) -> None:
    end = time.monotonic() + limit
    while not fact():
        assert time.monotonic() < end
        time.sleep(0.01)


def balanced(function: Any) -> bool:
    s = function.stats()
    return bool(
        s.accepted == s.succeeded + s.failed + s.cancelled + s.expired + s.pending + s.running
    )


class Workers:
    """Worker processes of one function of `tests.redis_app`."""

    def __init__(self, url: str, target: str, log: Path, lease: float = 1.0) -> None:
        self.command = [sys.executable, "-m", "batchify", "worker", f"tests.redis_app:{target}"]
        self.environment = {
            **os.environ, "BATCHIFY_TEST_REDIS": url, "BATCHIFY_TEST_LOG": str(log),
            "BATCHIFY_TEST_LEASE": str(lease), "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        one = subprocess.Popen(
            [*self.command, *arguments], env=self.environment, cwd=ROOT, stderr=subprocess.PIPE
        )
        assert one.stderr is not None
        lines = iter(one.stderr.readline, b"")
        assert any(line.rstrip().endswith(b": ready") for line in lines)
        self.running.append(one)
        return one

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.running:
            one.kill()
            one.wait(LIMIT)
            if one.stderr is not None:
                one.stderr.close()


def called_by(url: str, target: str) -> Any:
    """Return the function of the app, in this process, with that server."""
    from tests import redis_app

    found = getattr(redis_app, target)
    streams = RedisStreams(url, lease=1.0, stream=f"batchify:tests.redis_app.{target}")
    return batched(found._plain(), size=100, broker=streams)
