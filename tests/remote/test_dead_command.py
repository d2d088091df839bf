"""`python -m batchify dead`: list, requeue and delete dead letters (contract 7)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchify.__main__ import main
from batchify.cli.target import load
from tests.redis_server import PROGRAM, free_port, redis_server

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="redis-server is not installed"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

TARGET = "dead_letter_service:insert"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with redis_server() as server:
        yield server.url


@pytest.fixture
def letters(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the stream of dead letters of a function that the command can import."""
    (tmp_path / "dead_letter_service.py").write_text(
        "from batchify import batched\nfrom batchify.redis import RedisStreams\n"
        f"@batched(broker=RedisStreams({url!r}))\ndef insert(rows):\n    return rows\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    insert = load(TARGET)
    broker = insert._options().broker
    keys, client = broker.keys(insert._plain()), broker.client()
    client.delete(keys.dead, keys.stream)

    class Letters:
        def add(self, item: str, deliveries: int = 4) -> str:
            entry: bytes = client.xadd(keys.dead, {"i": item, "deliveries": deliveries})
            return entry.decode()

        def waiting(self) -> int:
            return int(client.xlen(keys.stream))

    return Letters()


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(["dead", TARGET, *arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_the_list_counts_in_words(letters: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys) == (0, "", "0 dead letters\n")
    entry = letters.add("[13]")
    status, out, err = run(capsys)
    assert (status, err) == (0, "1 dead letter\n")
    assert out.split() == [entry, *out.split()[1:3], "delivered", "4", "times", "[13]"]
    letters.add("x" * 100, deliveries=1)
    status, out, err = run(capsys)
    assert (status, err) == (0, "2 dead letters\n")
    assert out.splitlines()[1].endswith("delivered once  " + "x" * 80 + "...")
    assert run(capsys, "--whole")[1].splitlines()[1].endswith("delivered once  " + "x" * 100)


@pytest.mark.parametrize("action", ["requeue", "delete"])
def test_an_unknown_id_is_an_error(
    action: str, letters: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = letters.add("[1]")
    assert run(capsys, f"--{action}", "1-1") == (
        1, f"0 {action}d\n", "no dead letter has the id 1-1\n",
    )  # fmt: skip
    assert run(capsys, f"--{action}", "1-1", entry, "nope") == (
        1, f"1 {action}d\n", "no dead letter has the id 1-1\nno dead letter has the id nope\n",
    )  # fmt: skip
    assert letters.waiting() == (action == "requeue")
    assert run(capsys, f"--{action}", entry)[0] == 1  # it is gone


@pytest.mark.parametrize("action", ["requeue", "delete"])
def test_all_of_them(action: str, letters: Any, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [letters.add(f"[{n}]") for n in range(3)]
    assert run(capsys, f"--{action}", entries[1], entries[1]) == (0, f"1 {action}d\n", "")
    assert run(capsys, f"--{action}") == (0, f"2 {action}d\n", "")
    assert run(capsys, f"--{action}") == (0, f"0 {action}d\n", "")


def test_a_server_that_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "unreachable_service.py").write_text(
        "from batchify import batched\nfrom batchify.redis import RedisStreams\n"
        f"@batched(broker=RedisStreams('redis://:secret@127.0.0.1:{free_port()}'))\n"
        "def insert(rows):\n    return rows\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["dead", "unreachable_service:insert"]) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert "cannot read the dead letters: ConnectionError: " in line
    assert "secret" not in line
