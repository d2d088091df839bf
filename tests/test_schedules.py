"""The engine under the deterministic scheduler, and proof that the scheduler finds faults."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import mutants
from tests.baton import Broken, Sim, SimLock, baton, run
from tests.named import names_in
from tests.schedules import SCENARIOS, explore, run_one

ROOT = Path(__file__).parent.parent
SEAM, LINE, OPCODE = 60, 4, 4  # schedules of each scenario


@pytest.mark.parametrize("name", SCENARIOS)
def test_schedules(name: str) -> None:
    explore("seam", SEAM, names=[name])


@pytest.mark.parametrize("name", SCENARIOS)
def test_fine_schedules(name: str) -> None:
    """Switches at each line, and at each opcode."""
    explore("line", LINE, names=[name])
    explore("opcode", OPCODE, names=[name])


@pytest.mark.deep
def test_many_schedules() -> None:
    command = [sys.executable, "-m", "tests.schedules", "--jobs", "2", "--first", "1000"]
    command += ["--schedules", "26000", "--seconds", "24"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- the checker is checked ----


@pytest.mark.parametrize("level", ["seam", "line", "opcode"])
def test_a_seed_gives_the_same_schedule_again(level: str) -> None:
    if level == "opcode" and sys.version_info >= (3, 13):
        pytest.skip("opcodes are not traced alike each time")
    with baton():
        runs = [run_one("close-against-submit", level, 7) for _ in range(2)]
    assert runs[0].switches == runs[1].switches
    assert runs[0].steps == runs[1].steps


def find(body: Callable[[Sim], None], count: int = 200) -> str:
    """Return the report of the first schedule in which `body` fails."""
    with baton():
        for seed in range(count):
            try:
                run(body, f"{seed}", "seam", 20)
            except Broken as error:
                return str(error)
    return ""


def test_a_lost_wake_up_is_found_and_shown() -> None:
    def body(sim: Sim) -> None:
        box: list[int] = []
        bell = sim.bell()

        def look_then_sleep() -> None:
            if not box:
                sim.step()
                bell.is_rung = False  # the fault: it forgets items that arrived in the meantime
                bell.wait(None)

        sleeper = sim.go(look_then_sleep)
        sim.step()
        box.append(1)
        bell.ring()
        sleeper.join()

    told = find(body)
    assert "deadlock" in told
    assert "look_then_sleep" in told


def test_locks_taken_in_two_orders_are_found() -> None:
    def body(sim: Sim) -> None:
        first, second = SimLock(sim), SimLock(sim)

        def take(one: Any, other: Any) -> None:
            with one, other:
                sim.step()

        tasks = [sim.go(take, first, second), sim.go(take, second, first)]
        for task in tasks:
            task.join()

    assert "deadlock" in find(body)


def test_a_lost_update_is_found() -> None:
    def body(sim: Sim) -> None:
        count = [0]

        def add() -> None:
            before = count[0]
            sim.step()
            count[0] = before + 1

        for task in [sim.go(add), sim.go(add)]:
            task.join()
        assert count == [2]

    assert "assert" in find(body)


def test_a_thread_that_is_left_behind_is_found() -> None:
    def body(sim: Sim) -> None:
        sim.go(lambda: sim.bell().wait(None), name="forgotten")

    assert "forgotten" in find(body, 1)


def test_timeouts_come_when_all_threads_wait() -> None:
    def body(sim: Sim) -> None:
        began = sim.now
        assert not sim.bell().wait(3600.0)
        assert sim.now == began + 3600.0

    assert find(body, 3) == ""


def test_correct_runs_are_not_reported() -> None:
    def body(sim: Sim) -> None:
        lock, count = SimLock(sim), [0]

        def add() -> None:
            with lock, lock:
                before = count[0]
                sim.step()
                count[0] = before + 1

        for task in [sim.go(add), sim.go(add), sim.go(add)]:
            task.join()
        assert count == [3]

    assert find(body) == ""


# ---- the mutants ----


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_applies(mutant: mutants.Mutant) -> None:
    """Otherwise `python -m tests.mutants` would not test what it claims to."""
    before, after = mutants.patched(mutant)
    assert before != after
    compile(after, mutant.file, "exec")
    for command in mutant.tests:
        for target in [word for word in command if word.startswith("tests/")]:
            file, _, name = target.partition("::")
            module = file.removeprefix("tests/").removesuffix(".py")
            assert name.partition("[")[0] in {"", *names_in(module)}, target


def test_there_are_mutants_of_every_part() -> None:
    files = {mutant.file for mutant in mutants.MUTANTS}
    assert len(mutants.MUTANTS) >= 25
    assert len({mutant.name for mutant in mutants.MUTANTS}) == len(mutants.MUTANTS)
    for part in (
        "future",
        "waits",
        "scopes",
        "engine/looking",
        "engine/entry",
        "engine/running",
        "engine/base",
        "engine/threads",
        "engine/loop",
        "engine/control",
        "forming/",
        "outcome/",
    ):
        assert any(file.startswith(part) for file in files), part


# ---- a second opinion ----


def test_frontrun_finds_nothing() -> None:
    """Opcode-level schedules of a scheduler that others wrote; see `opcodes`."""
    if importlib.util.find_spec("frontrun") is None:
        pytest.skip("NOT RUN: frontrun is not installed (pip install --group reliability)")
    command = [sys.executable, "-m", "tests.opcodes", "--attempts", "3", "--seconds", "10"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
