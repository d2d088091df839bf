"""A plugin of pytest: tells the interpreter and its GIL, and fails a run that should have none."""

from __future__ import annotations

import os
import sys

import pytest


def has_gil() -> bool:
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def pytest_report_header() -> str:
    return f"interpreter: {sys.version}; the GIL is {'on' if has_gil() else 'off'}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(pytest_report_header())
    if not has_gil():
        from tests.chaos.process import NO_FORK

        terminalreporter.write_line(f"the chaos: {NO_FORK}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("PYTHON_GIL") == "0" and has_gil():
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
