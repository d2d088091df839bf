"""A user's mistake ends a command with one line and status 2, never with a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from batchify.__main__ import main
from tests.api.test_missing_extras import run
from tests.limits import LIMIT

COMMANDS = ["tune", "worker", "dead"]


def module(directory: Path, name: str, source: str) -> str:
    """Write a module and return its name, which no other test uses."""
    unique = f"{name}_{directory.name.replace('-', '_')}"
    (directory / f"{unique}.py").write_text(source)
    return unique


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def refused(command: str, target: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([command, target]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    return line


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("\nimport no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library' ({"),
        ("\nimport json\njson.loads('')\n", "JSONDecodeError: Expecting value: line 1"),
        ("\n1 / 0\n", "ZeroDivisionError: division by zero ({0}, line 2)"),
        ("def f(:\n", "SyntaxError: invalid syntax ({0}, line 1)"),
        ("raise ValueError('one\\ntwo')\n", "ValueError: one two ({0}, line 1)"),
    ],
)
def test_an_error_in_the_users_module(
    command: str, source: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = module(here, "broken", source)
    line = refused(command, f"{name}:insert", capsys)
    expected = message.replace("{0}", f"{name}.py").rstrip("{")
    assert f"importing {name} failed with {expected}" in line
    assert f"{name}.py, line" in line  # where


@pytest.mark.parametrize("command", COMMANDS)
def test_a_module_that_exits(command: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = module(here, "script", "import sys\nsys.exit(0)\n")
    line = refused(command, f"{name}:insert", capsys)
    assert f"{name} exits when it is imported ({name}.py, line 2)" in line
    assert '`if __name__ == "__main__":`' in line


@pytest.mark.parametrize("command", COMMANDS)
def test_the_path_of_a_file(command: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "package").mkdir()
    (here / "package" / "app.py").write_text("")
    for written in ("package/app.py", "./package/app.py", str(here / "package" / "app.py")):
        line = refused(command, f"{written}:insert", capsys)
        assert line.endswith("is a file; write its module name: package.app:insert")
    (here / "app.py").write_text("")
    assert refused(command, "app.py:insert", capsys).endswith("module name: app:insert")
    line = refused(command, f"{__file__}:insert", capsys)
    directory = os.path.dirname(__file__)
    assert line.endswith(f": test_command_mistakes:insert, and run the command in {directory}")
    assert "neither a module nor a file" in refused(command, "none.py:insert", capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_module_or_a_function_that_does_not_exist(
    command: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(command, "no_such_module.sub:f", capsys)
    assert f"no module named 'no_such_module' in {here}" in line
    name = module(here, "app", "def insert(rows): return rows\n")
    assert f"{name} has no 'insret'; did you mean insert?" in refused(
        command, f"{name}:insret", capsys
    )
    assert f"{name}:insert has no 'x'" in refused(command, f"{name}:insert.x", capsys)
    for target in (name, f"{name}:", ":insert", ""):
        assert "expected MODULE:FUNCTION, such as app:insert" in refused(command, target, capsys)


@pytest.mark.parametrize("command", ["worker", "dead"])
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(rows): ...", "f is not batched; decorate it with @batched(broker=...)"),
        ("import batchify\n@batchify.batched\ndef f(rows): ...", "f has no broker; decorate it"),
        ("f = 3", "expected a function decorated with @batched(broker=...), got int"),
        ("f = None", "expected a function decorated with @batched(broker=...), got None"),
    ],
)
def test_a_function_without_a_broker(
    command: str, source: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = module(here, "app", source)
    assert f"{name}:f: {message}" in refused(command, f"{name}:f", capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tune", "a:f", "--seconds", "soon"], "must be a number above 0, got 'soon'"),
        (["tune", "a:f", "--rate", "inf"], "must be a number above 0, got 'inf'"),
        (["tune", "a:f", "--most", "1.5"], "must be an integer >= 1, got '1.5'"),
        (["worker", "a:f", "--workers", "0"], "must be an integer >= 1, got '0'"),
        (["worker", "a:f", "--log-level", "loud"], "invalid choice: 'loud'"),
        (["dead", "a:f", "--requeue", "--delete"], "not allowed with argument"),
        (["demo", "--rows", "-1"], "must be an integer >= 1, got '-1'"),
        (["tune", "a:f", "--plot", "no/plot.svg"], "there is no directory no"),
    ],
)
def test_wrong_options(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_reader_that_stops_reading() -> None:
    program = (
        "import os, sys\n"
        "read, write = os.pipe(); os.close(read); os.dup2(write, 1)\n"
        "from batchify.__main__ import main\n"
        "from batchify.cli import tune\n"
        "tune.run = lambda *args, **kwargs: print('x' * 100_000) or 0\n"
        "sys.exit(main(['tune', 'a:f']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, timeout=LIMIT
    )
    assert (done.returncode, done.stderr) == (141, "")


def test_an_extra_that_the_users_module_needs(here: Path) -> None:
    name = module(here, "app", "import os\nimport batchify.redis\n")
    target = f"{name}:insert"
    source = f"sys.path.insert(0, {str(here)!r})\nfrom batchify.__main__ import main\n"
    ended = run("redis", f"{source}sys.exit(main(['worker', {target!r}]))")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.endswith(f'pip install "batchify-py[redis]" ({name}.py, line 2)')
