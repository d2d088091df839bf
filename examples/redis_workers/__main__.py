"""Two workers of a durable queue; one is killed in the middle, and nothing is lost.

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
    """A Redis server of our own, that keeps what it has in a file."""
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
    """As an operator would, once on each machine."""
    command = [sys.executable, "-m", "batchify", "worker", f"app:{function}"]
    return subprocess.Popen(command, cwd=HERE, stderr=subprocess.DEVNULL)


def rate(call: Any, first: int, count: int, workers: list[Any], *, kill: bool = False) -> float:
    """Rows a second, from the first call to the last result."""
    call((first, "warm")).result(60)
    began = time.perf_counter()
    futures = [call((key, f"row {key}")) for key in range(first + 1, first + 1 + count)]
    if kill:
        futures[0].result(60)
        workers[0].kill()  # in the middle of a batch, perhaps; the other one takes over
    keys = [future.result(60) for future in futures]
    assert keys == list(range(first + 1, first + 1 + count))
    return count / (time.perf_counter() - began)


def main() -> None:
    """Insert, kill, count."""
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
            alone = rate(insert_one, 0, ONE_BY_ONE, workers)
            batches = rate(insert, ONE_BY_ONE + 1, ROWS, workers[1:])
            print(f"in batches {batches / alone:.0f} times as many rows a second as one by one")
            rate(insert, ONE_BY_ONE + ROWS + 2, ROWS, workers[1:], kill=True)
            connection = connect()
            (count,) = connection.execute("SELECT count(*) FROM row").fetchone()
            connection.close()
            assert count == ONE_BY_ONE + 2 * ROWS + 3
            print(f"a worker was killed: all {count} rows are there, and every future has its own")
        finally:
            for one in (*workers, server):
                one.terminate()
            for one in (*workers, server):
                one.wait(30)


if __name__ == "__main__":
    main()
