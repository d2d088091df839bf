"""Report the interpreter and its GIL, and fail a run under PYTHON_GIL=0 in which the GIL is on.

This is a pytest plugin. Under pytest-xdist every worker checks its own process, because an
extension that a test imports enables the GIL in that worker only.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest


def has_gil() -> bool:
    """Return True if the GIL is on."""
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def pytest_report_header() -> str:
    return f"interpreter: {sys.version}; the GIL is {'on' if has_gil() else 'off'}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(pytest_report_header())
    if not has_gil():
        from tests.chaos.process import NO_FORK

        terminalreporter.write_line(f"chaos test: {NO_FORK}")


def is_wrong() -> bool:
    """Return True if PYTHON_GIL=0 is set, but the GIL is on."""
    return os.environ.get("PYTHON_GIL") == "0" and has_gil()


wrong_workers: list[str] = []


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Record which workers of pytest-xdist ended with the GIL on."""
    if getattr(node, "workeroutput", {}).get("is_wrong"):
        wrong_workers.append(node.gateway.id)


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:  # this is a worker
        output["is_wrong"] = is_wrong()
    elif is_wrong() or wrong_workers:
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
