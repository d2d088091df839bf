"""Log lines name the function, and for an error its type, file and line: contract 4 and 6."""

from __future__ import annotations

import ast
import asyncio
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import batchify
from batchify import batched
from tests.limits import LIMIT
from tests.log_lines import Lines, line_in, lines_of

ROOT = Path(batchify.__file__).parent


@pytest.fixture
def lines() -> Iterator[Lines]:
    with lines_of("insert") as lines:
        yield lines


def fail(_: object) -> None:
    raise ValueError("secret")  # here


HERE = f"ValueError (test_log_lines.py:{line_in(__file__, '# here')})"


def same(items: list[Any]) -> list[Any]:
    return items


def test_a_done_callback_that_raises(lines: Lines) -> None:
    gate = threading.Event()

    def wait(items: list[int]) -> list[int]:
        assert gate.wait(LIMIT)
        return items

    f = batched(wait, name="insert")
    f(1).add_done_callback(fail)
    gate.set()
    assert lines.next() == f"ERROR insert: a done-callback raised {HERE}"
    f.close()


def test_a_done_callback_that_raises_at_once(caplog: pytest.LogCaptureFixture) -> None:
    f = batched(same, name="insert")
    future = f(1)
    f.flush()
    future.add_done_callback(fail)  # the caller sees it in this thread
    assert f"a done-callback of a finished future raised {HERE}" in caplog.messages
    f.close()


def test_a_done_callback_on_a_loop_that_raises() -> None:
    async def main() -> list[dict[str, Any]]:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
        f = batched(same, name="insert")
        f(1).add_done_callback(fail)
        await f.aclose()
        return found

    found: list[dict[str, Any]] = []
    (context,) = asyncio.run(main())
    assert context["message"] == f"insert: a done-callback raised {HERE}"


def test_an_observer_that_raises(lines: Lines) -> None:
    f = batched(same, name="insert")
    f.observe(fail)
    for item in range(3):
        assert f(item).result(LIMIT) == item
    f.close()
    assert lines.next() == f"ERROR insert: an observer raised {HERE}"  # the first time only
    assert lines.rest() == []


def test_a_thread_that_was_hit(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    from batchify.engine import threads

    f = batched(same, name="insert")
    hits = [1]

    def serve(*args: Any) -> Any:
        if hits:
            hits.pop()
            fail(args)
        return real(*args)

    real = threads._serve
    monkeypatch.setattr(threads, "_serve", serve)
    assert f(1).result(LIMIT) == 1
    f.close()
    assert lines.next() == f"ERROR insert: a thread of batchify was hit by {HERE} and continues"


def test_a_missing_bar(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    f = batched(same, name="insert")
    assert list(f.map([1], progress=True)) == [1]
    f.close()
    assert lines.next().startswith("WARNING insert: progress=True needs tqdm")


# ---- all lines of the package ----

METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
# Where no function is known: (module, how the line begins).
OTHERS = {("future.py", "a done-callback of a finished future raised")}


def log_calls() -> Iterator[tuple[Path, ast.Call]]:
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(value=ast.Name(id="log" | "logger"), attr=attr)):
                    if attr in METHODS:
                        yield path, node


def test_each_line_begins_with_the_name_of_the_function() -> None:
    nameless = []
    for path, call in log_calls():
        line = ast.unparse(call.args[0]).strip("'\"")
        is_known = any(path.name == name and line.startswith(text) for name, text in OTHERS)
        if not line.startswith("%s") and not is_known:
            nameless.append(f"{path.relative_to(ROOT)}:{call.lineno}: {line}")
    assert not nameless


def test_the_test_sees_the_lines() -> None:
    assert {path.name for path, _ in log_calls()} >= {"future.py", "observe.py", "mending.py"}
    assert logging.getLogger("batchify").name == "batchify"
