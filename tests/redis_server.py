"""Start a private Redis server on loopback, for tests, examples of faults and benchmarks."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.limits import LIMIT

PROGRAM = shutil.which("redis-server") or shutil.which("valkey-server")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class RedisServer:
    """A server process that can be stopped, killed and restarted, with or without its data."""

    def __init__(self, directory: str, *arguments: str, port: int | None = None) -> None:
        self.directory = directory
        self.arguments = arguments
        self.port = free_port() if port is None else port
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        assert PROGRAM is not None
        self._process = subprocess.Popen(
            [PROGRAM, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "",
             "--dir", self.directory, *self.arguments],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        end = time.monotonic() + LIMIT
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert self._process.poll() is None, "redis-server ended"
            assert time.monotonic() < end, "redis-server does not listen"
            time.sleep(0.02)

    def stop(self, kill: bool = False) -> None:
        if self._process is not None:
            (self._process.kill if kill else self._process.terminate)()
            self._process.wait(LIMIT)
            self._process = None


@contextlib.contextmanager
def redis_server(*arguments: str) -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="batchify-redis-") as directory:
        server = RedisServer(str(Path(directory)), *arguments)
        server.start()
        try:
            yield server
        finally:
            server.stop(kill=True)
