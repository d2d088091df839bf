"""Shared setup of all tests: hypothesis profiles, the garbage collector, Ctrl-C."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

from batchify import clock
from batchify.interpreter import has_gil

# No time limits, because a busy machine is not a fault. The default tier tries the same examples
# every time, so that only a change of the code can make it fail. The deep tier tries new ones.
settings.register_profile(
    "default",
    max_examples=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "deep", settings.get_profile("default"), max_examples=500, derandomize=False, print_blob=True
)

MANY = 50_000  # objects


def is_deep(config: pytest.Config) -> bool:
    return bool(config.option.markexpr == "deep")


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("deep" if is_deep(config) else "default")
    # Tests that look at log lines capture them. Without any handler, `logging` would write the
    # other lines to stderr, even after the summary.
    logging.getLogger("batchify").addHandler(logging.NullHandler())
    # A shell starts background jobs with SIGINT ignored, and child processes inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not has_gil():  # redis-py closes its sockets in finalizers, whose order differs there
        config.addinivalue_line("filterwarnings", "ignore:unclosed <socket:ResourceWarning")
        warnings.filterwarnings("ignore", "unclosed <socket", ResourceWarning)  # after the tests
    if hasattr(config, "workerinput") and hasattr(os, "register_at_fork"):
        close_in_forks(config)


def close_in_forks(config: pytest.Config) -> None:
    """Close the pipe from this worker of pytest-xdist to its controller in forked children.

    The controller notices that a worker crashed by the end of that pipe. A child that outlives the
    worker, as those of process pools do, would keep it open, and the run would never end.
    """
    (interactor,) = (
        plugin
        for plugin in config.pluginmanager.get_plugins()
        if type(plugin).__name__ == "WorkerInteractor"
    )
    pipe = interactor.channel.gateway._io.outfile.fileno()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.register_at_fork(after_in_child=lambda: os.dup2(nowhere, pipe, inheritable=False))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Ignore commands to a worker of pytest-xdist that has just crashed.

    The controller learns of a crash by an event that may still wait in its queue. Until then, a
    command to the worker raised `OSError`, which ended the whole run. The event takes the tests of
    the worker back, the ones that it was sent in vain too.
    """
    send = node.sendcommand

    def send_if_alive(name: str, **arguments: object) -> None:
        with contextlib.suppress(OSError):
            send(name, **arguments)

    node.sendcommand = send_if_alive


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run the hypothesis tests in the deep tier too, with its profile."""
    if is_deep(config):
        for item in items:
            if is_hypothesis_test(getattr(item, "obj", None)):
                item.add_marker("deep")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Freeze old objects, again if a test thawed them.

    Hundreds of tests call `gc.collect`, which takes 0.1 s as long as it visits all modules.
    """
    if len(gc.get_objects(generation=2)) > MANY:
        gc.collect()
        gc.freeze()


@pytest.fixture(params=["def", "async def"])
def kind(request: pytest.FixtureRequest) -> Any:
    """Run a test twice: for a function that runs in threads, and for one that runs on a loop."""
    return request.param


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the time limits of clocks, because a busy machine may stand still for seconds."""
    # Not at the top, because `test_runs_of_tests` copies this file to another place.
    from tests.limits import LIMIT

    monkeypatch.setattr(clock, "MIN_EXIT_WAIT", LIMIT)
    monkeypatch.setattr(clock, "MAX_TAKE_WAIT", LIMIT)


@pytest.fixture
def seen() -> Iterator[Any]:
    """Export spans and metrics of all functions during the test."""
    from tests.api.spans import Seen  # skips the test if OpenTelemetry is not installed

    found = Seen()
    stop = found.instrument()
    yield found
    stop()
