"""`python -m batchify demo`, in a process of its own as users run it."""

from __future__ import annotations

import io
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from batchify.__main__ import main
from batchify._version import __version__
from batchify.cli import demo
from tests.limits import LIMIT

ROOT = Path(__file__).parent.parent.parent
# Few, because a slow disk takes 50 ms for a commit, and two scenarios commit row by row.
ROWS = 20


def run(*command: str) -> subprocess.CompletedProcess[str]:
    plain = {
        name: value
        for name, value in os.environ.items()
        if name not in ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS")
    }
    return subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**plain, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT,
    )


def test_the_demo_shows_every_scenario_and_keeps_the_file(tmp_path: Path) -> None:
    file = tmp_path / "kept.db"
    done = run("-m", "batchify", "demo", "--rows", str(ROWS), "--file", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    for scenario in demo.SCENARIOS:
        (line,) = [
            one for one in lines if one.startswith(f"{scenario.how:<8}  {scenario.callers} ")
        ]
        numbers = line.removeprefix(f"{scenario.how:<8}  {scenario.callers} ").split()
        assert len(numbers) == 6
        assert numbers[0] == str(ROWS)
        assert numbers[2].endswith("x")
    assert "The sequential caller gains nothing" in done.stdout
    assert f"all {ROWS * len(demo.SCENARIOS)} rows" in done.stdout
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    assert "…" not in done.stdout
    assert max(map(len, lines)) <= 80 or str(file) in max(lines, key=len)
    with closing(sqlite3.connect(file)) as connection:
        counted = connection.execute("SELECT scenario, count(*) FROM event GROUP BY scenario")
        assert dict(counted) == {scenario.label: ROWS for scenario in demo.SCENARIOS}


def test_the_message_without_rich() -> None:
    program = "import sys; sys.modules['rich'] = None\nfrom batchify.__main__ import main\n"
    done = run("-c", program + "sys.exit(main(['demo', '--rows', '1']))")
    assert done.returncode == 2
    assert 'pip install "batchify-py[demo]"' in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_other_commands_need_no_rich() -> None:
    program = "import sys; sys.modules['rich'] = None\nfrom batchify.__main__ import main\n"
    done = run("-c", program + "sys.exit(main([]))")
    assert (done.returncode, done.stderr) == (0, "")
    assert "demo" in done.stdout


def test_version() -> None:
    done = run("-m", "batchify", "--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"batchify {__version__}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--rows", "0"],
        ["--rows", "many"],
        ["--seconds", "0"],
        ["--seconds", "nan"],
        ["--seconds", "inf"],
        ["--rows", "1", "--seconds", "1"],
        ["--file", __file__],
        ["--file", "no/such/directory/demo.db"],
    ],
)
def test_bad_arguments_are_refused_before_anything_runs(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["demo", *arguments])
    assert ended.value.code == 2
    assert arguments[0] in capsys.readouterr().err


# ---- in this process ----


def test_a_very_short_time_still_gives_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["demo", "--seconds", "1e-9"]) == 0
    assert "sequential caller" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_stops_the_callers_and_removes_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def interrupted(turn: demo.Turn) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(demo.Turn, "progress", interrupted)
    # Without the interrupt it would run for an hour.
    assert main(["demo", "--seconds", "3600"]) == 130
    assert "interrupted" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_created(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr(demo, "connect", refuse)
    path = tmp_path / "new.db"
    assert main(["demo", "--rows", "1", "--file", str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.err == f"cannot create {path}: unable to open database file\n"
    assert printed.out == ""


@pytest.mark.parametrize("scenario", demo.SCENARIOS, ids=lambda scenario: scenario.label)
def test_a_disk_that_is_full(
    scenario: demo.Scenario,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    insert = demo.INSERT.replace("(?,", "(disk_is_full(?),", 1)

    def connect(path: Path) -> sqlite3.Connection:
        def check(name: str) -> str:
            if name == scenario.label:
                raise OSError
            return name

        connection = sqlite3.connect(path, check_same_thread=False)
        connection.create_function("disk_is_full", 1, check)
        return connection

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(demo, "connect", connect)
    monkeypatch.setattr(demo, "INSERT", insert)
    assert main(["demo", "--rows", "1"]) == 1
    assert (
        capsys.readouterr().err
        == "the database failed with OperationalError: user-defined function raised exception\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("rows", [1, 2, demo.ROUNDS, 3 * demo.ROUNDS + 1])
def test_rows_are_divided_among_rounds_and_callers(rows: int) -> None:
    parts = demo.shares(1.0, rows)
    assert len(parts) == min(rows, demo.ROUNDS)
    turns = [demo.Turn(demo.BATCHED_16, number, part) for number, part in enumerate(parts)]
    all_rows = [row for turn in turns for caller in range(16) for row in turn.rows(caller)]
    assert len(all_rows) == len(set(all_rows)) == rows


@pytest.fixture
def outcomes(tmp_path: Path) -> tuple[Path, demo.Outcomes]:
    path = tmp_path / "demo.db"
    demo.create(path)
    return path, demo.measure(path, [demo.Share(rows=3)], lambda label, done: None)


def test_check_finds_lost_rows_double_rows_and_swapped_ids(
    outcomes: tuple[Path, demo.Outcomes],
) -> None:
    path, measured = outcomes
    assert demo.check(path, measured) == 3 * len(demo.SCENARIOS)

    receipts = measured[demo.BATCHED_16].receipts
    first, second, *_ = list(receipts)
    for wrong in (
        [first, *receipts],
        receipts[1:],
        [first._replace(row_id=second.row_id), second._replace(row_id=first.row_id), *receipts[2:]],
    ):
        with pytest.raises(AssertionError):
            demo.check(path, {**measured, demo.BATCHED_16: demo.Outcome(receipts=wrong)})


def test_latencies_are_quantiles_by_rank() -> None:
    row = demo.Row("any", 0, 0, 0, "")
    outcome = demo.Outcome([demo.Receipt(row, 1, float(n)) for n in range(100, 0, -1)])
    assert [outcome.latency(q) for q in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]


@pytest.mark.parametrize(
    ("commit", "lone", "said", "not_said"),
    [
        (0.010, 0.012, "(0.83x):", "noise"),
        (0.010, 0.008, "(1.25x; above 1x is disk noise):", "in memory"),
        (0.0001, 0.001, "the file may be in memory", "noise"),
    ],
)
def test_the_verdict_says_what_was_measured(
    commit: float, lone: float, said: str, not_said: str
) -> None:
    def outcome(seconds: float) -> demo.Outcome:
        row = demo.Row("any", 0, 0, 0, "")
        return demo.Outcome([demo.Receipt(row, 1, seconds)], seconds, succeeded=1, batches=1)

    seconds = dict.fromkeys(demo.SCENARIOS, commit) | {demo.SEQUENTIAL: lone}
    text = "\n".join(demo.verdict({one: outcome(time) for one, time in seconds.items()}))
    assert said in text
    assert not_said not in text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("term", "is_shown"), [("xterm", True), ("dumb", False)])
def test_the_bar_is_drawn_on_terminals_only(
    term: str, is_shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    stderr = Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    with demo.progress_bar() as watch:
        watch("batched, 16 threads", 0.25)
    assert ("batched, 16 threads" in stderr.getvalue()) is is_shown
    assert ("25%" in stderr.getvalue()) is is_shown
    assert stderr.getvalue() == "" or is_shown
