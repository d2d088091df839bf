"""Run two workers of a durable queue, kill one of them, and check that no item is lost.

Run it: `python examples/redis_workers` (needs redis-py and redis-server)
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROWS, ONE_BY_ONE = 6000, 300


def start_server(directory: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a Redis server that stores its data in a file; returns the process and the URL."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", directory,
         "--appendonly", "yes"],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return server, f"redis://127.0.0.1:{port}/0"


def start_worker(function: str) -> subprocess.Popen[bytes]:
    """Start a worker process, as an operator would on each machine."""
    command = [sys.executable, "-m", "batchify", "worker", f"app:{function}"]
    return subprocess.Popen(command, cwd=HERE, stderr=subprocess.DEVNULL)


def rate(call: Any, first: int, count: int, workers: list[Any], *, kill: bool = False) -> float:
    """Return the rows per second, from the first call to the last result."""
    call((first, "warm")).result(60)
    began = time.perf_counter()
    futures = [call((key, f"row {key}")) for key in range(first + 1, first + 1 + count)]
    if kill:
        futures[0].result(60)
        workers[0].kill()  # probably in the middle of a batch; the other worker takes over
    keys = [future.result(60) for future in futures]
    assert keys == list(range(first + 1, first + 1 + count))
    return count / (time.perf_counter() - began)


def main() -> None:
    """Insert rows, kill a worker, and count the rows."""
    if shutil.which("redis-server") is None:
        print("!!! SKIPPED: redis-server is not installed")
        return
    with tempfile.TemporaryDirectory() as directory:
        server, url = start_server(directory)
        os.environ.update(REDIS_URL=url, DATABASE=f"{directory}/rows.db")
        sys.path.insert(0, str(HERE))
        from app import connect, insert, insert_one

        workers = [start_worker("insert_one"), start_worker("insert"), start_worker("insert")]
        try:
            single = rate(insert_one, 0, ONE_BY_ONE, workers)
            batches = rate(insert, ONE_BY_ONE + 1, ROWS, workers[1:])
            print(f"in batches {batches / single:.0f} times as many rows a second as one by one")
            rate(insert, ONE_BY_ONE + ROWS + 2, ROWS, workers[1:], kill=True)
            connection = connect()
            (count,) = connection.execute("SELECT count(*) FROM row").fetchone()
            connection.close()
            assert count == ONE_BY_ONE + 2 * ROWS + 3
            print(
                f"a worker was killed: all {count} rows are stored, and every future has its result"
            )
        finally:
            for one in (*workers, server):
                one.terminate()
            for one in (*workers, server):
                one.wait(30)


if __name__ == "__main__":
    main()
