"""Failures that no caller asked for are logged before the process ends: contract 4 and 6."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

START = """\
import asyncio, atexit, logging, multiprocessing, os, sys, threading
from batchify import batched

def fail(items):
    raise ValueError("secret")

async def afail(items):
    fail(items)

f, g = batched(fail, name="f"), batched(afail, name="f")
logging.getLogger("asyncio").disabled = True  # it logs slow callbacks in development mode
"""
HERE = START.splitlines().index('    raise ValueError("secret")') + 1
FAILED = f"f: 1 item failed with ValueError (app.py:{HERE}), and no caller asked for its result"


def run(body: str, folder: Path) -> list[str]:
    """Run a program to its end; return what it wrote to stdout and stderr."""
    app = folder / "app.py"
    app.write_text(START + textwrap.dedent(body))
    done = subprocess.run(
        [sys.executable, "-X", "dev", str(app)],
        check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        cwd=folder, timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "secret" not in done.stdout
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    "body",
    [
        "f(1)",
        "with f: f(1)",
        "kept = f(1)",
        "kept = f(1); f.close(); sys.exit()",
        "kept = [f(1)]; kept.append(kept); f.close()",
        "sys.kept = f(1); f.close()",
        "f.linger = None; f(1)",
        "g(1)",
        "with g: g(1)",
        "kept = g(1)",
        """
        async def main():
            g(1)
        asyncio.run(main())
        """,
        """
        async def main():
            async with g:
                g(1)
        asyncio.run(main())
        """,
        """
        def main():
            kept.append(f(1))
        kept = []
        thread = threading.Thread(target=main)
        thread.start()
        """,
    ],
)
def test_without_configuration_the_line_goes_to_stderr(body: str, tmp_path: Path) -> None:
    assert run(body, tmp_path) == [FAILED]


def test_the_line_goes_to_a_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert not run(f"logging.basicConfig(filename={str(log)!r}); kept = f(1)", tmp_path)
    assert log.read_text().splitlines() == [f"WARNING:batchify:{FAILED}"]


def test_the_exit_waits_for_a_line_that_another_thread_has_begun(tmp_path: Path) -> None:
    body = """
    begun = threading.Event()
    def slow(record):
        begun.set()
        return not threading.Event().wait(0.5)
    logging.getLogger("batchify").addFilter(slow)
    threading.Thread(target=f, args=(1,), daemon=True).start()
    begun.wait()
    """
    assert run(body, tmp_path) == [FAILED]


def test_logging_that_is_switched_off_is_off(tmp_path: Path) -> None:
    assert not run("logging.getLogger('batchify').disabled = True; kept = f(1)", tmp_path)


def test_a_function_at_exit_may_still_ask(tmp_path: Path) -> None:
    body = """
    kept = f(1)
    atexit.register(lambda: print(type(kept.exception()).__name__))
    """
    assert run(body, tmp_path) == ["ValueError"]


def test_items_that_the_exit_gives_up(tmp_path: Path) -> None:
    body = """
    import warnings
    warnings.simplefilter("ignore")
    @batched(exit_timeout=0.01)
    def hangs(items):
        threading.Event().wait()
    kept = hangs(1), hangs(2)
    """
    assert run(body, tmp_path) == [
        "hangs: 2 items failed with Closed, and no caller asked for their results"
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("end", ["os._exit(0)", "f(4); sys.exit()"])
def test_a_forked_child_does_not_log_what_its_parent_logs(end: str, tmp_path: Path) -> None:
    body = f"""
    import warnings
    warnings.simplefilter("ignore")
    f.linger = None
    failed, pending = f(1), f(2)
    f.flush()
    pending = f(3)
    child = os.fork()
    if not child:
        assert pending.done()
        del failed, pending
        {end}
    os.waitpid(child, 0)
    print("parent", flush=True)
    pending.cancel()
    """
    two = FAILED.replace("1 item", "2 items").replace("its result", "their results")
    child = [FAILED] if "f(4)" in end else []
    assert run(body, tmp_path) == [*child, "parent", two]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_the_end_of_a_multiprocessing_child(tmp_path: Path) -> None:
    body = """
    def child():
        sys.kept = f(1)
        f.flush()
        f(2)
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    """
    assert run(body, tmp_path) == [FAILED, FAILED]
