"""A run of the tests ends with a summary, and a test that hangs or crashes fails alone."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.conftest import pytest_configure_node
from tests.limits import LIMIT

pytestmark = [
    pytest.mark.deep,  # each run starts three processes
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and signals of POSIX"),
]
pytest_plugins = ["pytester"]

CONFTEST = (Path(__file__).parent.parent / "conftest.py").read_text("utf-8")
HANGS = {
    "python": "while True: pass",
    "lock": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "thread": "t = threading.Thread(target=event.wait, daemon=True); t.start(); t.join()",
    "process": "subprocess.run([sys.executable, '-c', 'import time; time.sleep(9999)'])",
}
CRASHES = {
    "exit": "os._exit(0)",
    "signal": "os.kill(os.getpid(), signal.SIGKILL)",
    "signal with a forked child": "leave_a_child(); os.kill(os.getpid(), signal.SIGKILL)",
}
TESTS = """
import os, pathlib, signal, subprocess, sys, threading, time
import pytest

event = threading.Event()

def leave_a_child():
    child = os.fork()
    if not child:
        time.sleep(9999)
    pathlib.Path("child").write_text(str(child))

@pytest.mark.parametrize("n", range(20))
def test_it(n):
    if n == 15:
        {fault}
"""


def outcomes(pytester: pytest.Pytester, fault: str, *options: str) -> dict[str, int]:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(TESTS.format(fault=fault))
    pytester.makeini("[pytest]\nmarkers = deep")
    common = ("-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "worksteal")
    try:
        ran = pytester.runpytest_subprocess(*common, *options, timeout=LIMIT)
    finally:
        child = pytester.path / "child"
        if child.exists():
            os.kill(int(child.read_text()), signal.SIGKILL)
    return ran.parseoutcomes()


@pytest.mark.parametrize("fault", HANGS.values(), ids=HANGS)
def test_a_test_that_hangs_fails_alone(pytester: pytest.Pytester, fault: str) -> None:
    found = outcomes(pytester, fault, "--timeout", "10", "--timeout-method", "signal")
    assert found == {"passed": 19, "failed": 1}


@pytest.mark.parametrize("fault", CRASHES.values(), ids=CRASHES)
def test_a_test_that_ends_its_process_fails_alone(pytester: pytest.Pytester, fault: str) -> None:
    assert outcomes(pytester, fault) == {"passed": 19, "failed": 1}


def test_a_command_to_a_crashed_worker_does_not_end_the_run() -> None:
    """The controller of pytest-xdist may not have heard of the crash yet."""

    class Crashed:
        def sendcommand(self, name: str, **arguments: object) -> None:
            raise OSError("cannot send (already closed?)")

    node = Crashed()
    pytest_configure_node(node)
    node.sendcommand("steal", indices=[1])
