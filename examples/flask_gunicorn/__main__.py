"""Start gunicorn with --preload, post from many threads, stop it with SIGTERM, and compare.

Run it: `python examples/flask_gunicorn` (needs what requirements.txt has)
"""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from itertools import chain
from pathlib import Path
from statistics import median

ROUNDS = 3
SECONDS = 0.3  # length of each measurement
CLIENTS = 16
PATHS = "/notes/per-call", "/notes"

Receipts = list[tuple[str, int | None]]  # each posted text, and the id in the answer


@contextmanager
def gunicorn(directory: Path) -> Iterator[tuple[int, int]]:
    """Run two workers of eight threads; yields the master's process id, and the port."""
    log = directory / "log"
    command = [
        *(sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--threads", "8"),
        *("--bind", "127.0.0.1:0", "--keep-alive", "30", "--log-file", str(log)),
        *("--chdir", str(Path(__file__).parent), "app:app"),
    ]
    env = {**os.environ, "DATABASE": str(directory / "notes.db")}
    with subprocess.Popen(command, env=env) as master:
        try:
            while not log.exists() or log.read_text().count("Booting worker") < 2:
                assert master.poll() is None, log.read_text()
                time.sleep(0.02)
            yield master.pid, int(re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text())[1])
        finally:
            master.send_signal(signal.SIGTERM)
    assert master.returncode == 0, log.read_text()
    assert "[ERROR]" not in log.read_text(), log.read_text()


def client(port: int, path: str, name: str, end: float) -> Receipts:
    """Post note by note until `end`."""
    receipts: Receipts = []
    with closing(HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        while not receipts or time.perf_counter() < end:
            text = f"{name} {len(receipts)}"
            connection.request("POST", path, text)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status in (200, 202), body
            receipts.append((text, json.loads(body)["id"] if body else None))
    return receipts


def post(port: int, path: str, clients: int, everything: Receipts) -> float:
    """Return the notes per second of `clients` concurrent clients."""
    began = time.perf_counter()
    names = [f"{path} {began} {number}" for number in range(clients)]
    with ThreadPoolExecutor(clients) as pool:
        turns = pool.map(lambda name: client(port, path, name, began + SECONDS), names)
        receipts = list(chain.from_iterable(turns))
    everything += receipts
    return len(receipts) / (time.perf_counter() - began)


def main() -> None:
    """Measure both paths in turns; then compare the answers with the stored notes."""
    everything = Receipts()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with gunicorn(directory) as (master, port):
            for clients in (CLIENTS, 1):
                pairs = [
                    [post(port, path, clients, everything) for path in PATHS] for _ in range(ROUNDS)
                ]
                before, after = (median(rates) for rates in zip(*pairs, strict=True))
                gain = median(after / before for before, after in pairs)
                print(f"{clients:>2} clients: {before:,.0f} -> {after:,.0f} notes/s: {gain:.2f}x")
            # These are accepted, but not yet stored, when gunicorn gets SIGTERM.
            post(port, "/notes/later", CLIENTS, everything)
        with closing(sqlite3.connect(directory / "notes.db")) as connection:
            stored = connection.execute("SELECT text, id, pid FROM notes").fetchall()
    (start,) = [pid for text, _, pid in stored if text == "started"]
    assert start == master  # stored once, by the process that accepted it
    ids = {text: number for text, number, _ in stored}
    assert len(ids) == len(stored) == len(everything) + 1
    assert all(ids[text] == number or number is None for text, number in everything)
    processes = {pid for *_, pid in stored}
    print(f"{len(everything)} notes posted, each stored once, by {len(processes)} processes")


if __name__ == "__main__":
    main()
