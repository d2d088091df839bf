"""Process pools and scripts, for the tests of `executor=`."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent import futures
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from tests.limits import LIMIT

METHODS = [
    m for m in ("fork", "forkserver", "spawn") if m in multiprocessing.get_all_start_methods()
]


def processes(method: str = "forkserver", workers: int = 1) -> Callable[[], ProcessPoolExecutor]:
    """Return a function that makes a pool."""
    return lambda: ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(method))


class Opaque(futures.Executor):
    """Runs tasks at once, and records them as another machine would get them."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> futures.Future[Any]:
        assert not kwargs
        self.calls.append((fn, args))
        function, arguments = pickle.loads(pickle.dumps((fn, args)))
        future: futures.Future[Any] = futures.Future()
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)
        return future


def output_of(script: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
