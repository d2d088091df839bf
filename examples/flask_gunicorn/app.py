"""Store notes from a Flask service on gunicorn's threads; concurrent requests share a commit.

Serve it from this directory:
`DATABASE=/tmp/notes.db gunicorn --preload --workers 2 --threads 8 app:app`
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing

from flask import Flask, Response, jsonify, request

from batchify import batched

DATABASE = os.environ["DATABASE"]
INSERT = "INSERT INTO notes (pid, text) VALUES (?, ?)"

app = Flask(__name__)
lock = threading.Lock()


def connect() -> sqlite3.Connection:
    """Open a connection. None is kept, because it could not be used after a fork."""
    return sqlite3.connect(DATABASE, timeout=30)


@batched(size=500)
def insert(texts: list[str]) -> range:
    """Store many notes with one commit; return their ids."""
    with closing(connect()) as connection, connection:
        connection.executemany(INSERT, [(os.getpid(), text) for text in texts])
        (last,) = connection.execute("SELECT last_insert_rowid()").fetchone()
    return range(last - len(texts) + 1, last + 1)


def insert_one(text: str) -> int | None:
    """Store one note with a commit of its own.

    The lock is faster than the wait of SQLite itself, which sleeps.
    """
    with lock, closing(connect()) as connection, connection:
        return connection.execute(INSERT, (os.getpid(), text)).lastrowid


with closing(connect()) as connection:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS notes"
        " (id INTEGER PRIMARY KEY, pid INTEGER NOT NULL, text TEXT NOT NULL)"
    )
# With --preload this runs in the master before it forks. The call starts a thread in the master;
# each forked worker starts its own with its first call. The master waits for the result, because
# SQLite can no longer write in a process that was forked during another thread's transaction.
insert("started").result(timeout=30)


@app.post("/notes")
def create() -> Response:
    """Store a note, and answer when it is stored."""
    return jsonify(id=insert(request.get_data(as_text=True)).result(timeout=30))


@app.post("/notes/later")
def create_later() -> tuple[str, int]:
    """Accept a note. The worker stores all accepted notes before it exits."""
    insert(request.get_data(as_text=True))
    return "", 202


@app.post("/notes/per-call")
def create_per_call() -> Response:
    """Store a note without batching, for comparison."""
    return jsonify(id=insert_one(request.get_data(as_text=True)))
