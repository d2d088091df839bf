"""Store users in PostgreSQL from a FastAPI service whose requests share INSERTs.

Serve it: `DATABASE_URL=postgresql://... uvicorn --app-dir examples/fastapi_insert app:app`
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request
from psycopg import AsyncConnection
from psycopg.errors import UniqueViolation
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel

from batchify import batched

TABLE = """
CREATE TABLE IF NOT EXISTS users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL, email text UNIQUE)
"""
INSERT = "INSERT INTO users (name, email) VALUES (%s, %s) RETURNING id"
# PostgreSQL assigns ascending ids in the order of the SELECT, but does not guarantee the order of
# RETURNING. So the ids are sorted; SQLAlchemy does the same for
# `insert(User).returning(User.id, sort_by_parameter_order=True)`.
INSERT_MANY = """
INSERT INTO users (name, email)
SELECT name, email FROM unnest(%s::text[], %s::text[]) WITH ORDINALITY AS item (name, email, place)
ORDER BY place RETURNING id
"""


class User(BaseModel):
    """The body of a request."""

    name: str
    email: str


class Users:
    """The table of users."""

    def __init__(self, connection: AsyncConnection, pool: AsyncConnectionPool) -> None:
        self.connection = connection
        self.pool = pool

    async def insert_one(self, user: User) -> int:
        """Insert one row on a connection of the pool; return its id."""
        async with self.pool.connection() as connection:
            cursor = await connection.execute(INSERT, (user.name, user.email))
            return (await cursor.fetchone())[0]

    # `isolate` is safe, because a statement inserts all rows or none. If an email is known,
    # batchify runs halves of the batch again, and only the caller of that email gets the error.
    @batched(size=1000, isolate=True)
    async def insert(self, users: list[User]) -> list[int]:
        """Insert all rows with one statement; return their ids in the order of the users."""
        columns = [user.name for user in users], [user.email for user in users]
        cursor = await self.connection.execute(INSERT_MANY, columns)
        return sorted(row[0] for row in await cursor.fetchall())


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Connect; at shutdown store all accepted users, then disconnect."""
    url = os.environ["DATABASE_URL"]
    # With autocommit a statement is a transaction, and takes one round trip.
    options = {"autocommit": True}
    async with (
        await AsyncConnection.connect(url, **options) as connection,
        AsyncConnectionPool(url, min_size=10, max_size=10, kwargs=options) as pool,
    ):
        await connection.execute(TABLE)
        app.state.users = Users(connection, pool)
        async with app.state.users.insert:
            yield


app = FastAPI(lifespan=lifespan)


@app.post("/users")
async def create(user: User, request: Request) -> dict[str, int]:
    """Store a user, and answer with its id."""
    try:
        return {"id": await request.app.state.users.insert(user)}
    except UniqueViolation:
        raise HTTPException(409, "this email is known") from None


@app.post("/users/per-call")
async def create_per_call(user: User, request: Request) -> dict[str, int]:
    """Store a user without batching, for comparison."""
    try:
        return {"id": await request.app.state.users.insert_one(user)}
    except UniqueViolation:
        raise HTTPException(409, "this email is known") from None
