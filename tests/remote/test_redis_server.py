"""`broker=RedisStreams(...)`: a server that fails, refuses, restarts or is missing."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from batchify import batched
from batchify.redis import RedisStreams
from tests.limits import LIMIT
from tests.redis_server import PROGRAM, RedisServer, redis_server
from tests.remote.on_redis import balanced, until, working

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="redis-server is not installed"),
    # redis-py relies on the garbage collector to close broken connections.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.mark.deep
def test_errors_of_the_server_contain_no_items(broker: Any) -> None:
    with redis_server() as full:

        @batched(broker=RedisStreams(full.url, stream="full", send_timeout=0.2))
        def same(rows: list[str]) -> list[str]:
            return rows

        client = same._options().broker.client()
        client.config_set("min-replicas-to-write", 1)
        error = same("SECRET").exception(LIMIT)
        assert "NOREPLICAS" in str(error).upper() or "replicas" in str(error)
        assert "SECRET" not in str(error) + repr(error.args)  # type: ignore[union-attr]
        client.config_set("min-replicas-to-write", 0)
        with working(same):
            client.config_set("min-replicas-to-write", 1)
            future = same("a")
            time.sleep(0.1)
            client.config_set("min-replicas-to-write", 0)
            assert future.result(LIMIT) == "a"


@pytest.mark.deep
def test_a_server_that_is_emptied_or_made_a_replica_ends_no_worker() -> None:
    with redis_server() as server, redis_server() as other:

        @batched(broker=RedisStreams(server.url, stream="moved", lease=1))
        def same(rows: list[int]) -> list[int]:
            return rows

        client = same._options().broker.client()
        with working(same):
            assert same(1).result(LIMIT) == 1
            client.flushall()
            assert same(2).result(LIMIT) == 2
            client.replicaof("127.0.0.1", str(other.port))
            time.sleep(0.7)
            client.replicaof("NO", "ONE")
            assert same(3).result(LIMIT) == 3


def test_a_missing_server_is_reported_in_the_end() -> None:
    @batched(broker=RedisStreams("redis://127.0.0.1:1", stream="nothing", send_timeout=0.1))
    def double(rows: list[int]) -> list[int]:
        return rows

    error = double(1).exception(LIMIT)
    assert type(error).__module__ == "redis.exceptions"
    assert type(error).__name__ == "ConnectionError"
    assert balanced(double)


def test_a_wrong_password_is_reported_at_once() -> None:
    with redis_server("--requirepass", "right") as locked:
        wrong = RedisStreams(locked.url.replace("//", "//:wrong@"), stream="locked")
        right = RedisStreams(locked.url.replace("//", "//:right@"), stream="locked")

        @batched(broker=wrong)
        def refused(rows: list[int]) -> list[int]:
            return rows

        @batched(broker=right)
        def same(rows: list[int]) -> list[int]:
            return rows

        assert type(refused(1).exception(LIMIT)).__name__ == "AuthenticationError"
        with working(same):
            assert same(1).result(LIMIT) == 1


def test_tls(tmp_path: Path) -> None:
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", "key.pem", "-out", "cert.pem", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=tmp_path, capture_output=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    cert = str(tmp_path / "cert.pem")
    plain = RedisServer(str(tmp_path))
    port = str(plain.port)
    secure = RedisServer(
        str(tmp_path), "--port", "0", "--tls-port", port, "--tls-cert-file", cert,
        "--tls-key-file", str(tmp_path / "key.pem"), "--tls-ca-cert-file", cert,
        "--tls-auth-clients", "no", port=plain.port,
    )  # fmt: skip
    secure.start()
    try:
        url = f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={cert}"

        @batched(broker=RedisStreams(url, stream="secure"))
        def double(rows: list[int]) -> list[int]:
            return [2 * row for row in rows]

        with working(double):
            assert double(4).result(LIMIT) == 8
    finally:
        secure.stop(kill=True)


@pytest.mark.deep
@pytest.mark.parametrize("keeps", [True, False], ids=["with its file", "without anything"])
def test_the_server_is_started_anew(keeps: bool) -> None:
    arguments = ("--appendonly", "yes", "--appendfsync", "always") if keeps else ()
    with redis_server(*arguments) as server:

        @batched(
            size=20,
            broker=RedisStreams(server.url, stream="anew", lease=2, send_timeout=LIMIT),
        )
        def double(rows: list[int]) -> list[int]:
            return [2 * row for row in rows]

        before = [double(row) for row in range(50)]
        until(lambda: all(future.running() for future in before))
        server.stop(kill=True)
        during = [double(row) for row in range(50, 100)]
        time.sleep(0.2)
        server.start()
        with working(double):
            futures = before + during
            assert [future.result(LIMIT) for future in futures] == [2 * row for row in range(100)]
            server.stop(kill=True)
            after = [double(row) for row in range(100, 120)]
            server.start()
            assert [future.result(LIMIT) for future in after] == [
                2 * row for row in range(100, 120)
            ]
    assert balanced(double)
