"""Child processes of `multiprocessing`: contract 6."""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.limits import LIMIT

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")


MODULE = """
import os
from batchify import batched

@batched(linger=1000)
def lingers(items):
    with open(os.path.join(os.path.dirname(__file__), "ran"), "a") as file:
        file.write("".join(f"{os.getpid()} {item}\\n" for item in items))
    return [(os.getpid(), item) for item in items]

@batched
async def aprompt(items):
    return [(os.getpid(), item) for item in items]

class Owner:
    def __init__(self, name):
        self.name = name

    @batched
    def method(self, items):
        return [(self.name, os.getpid(), item) for item in items]

def use(f, method, queue):
    assert f is lingers
    assert f.stats().submitted == 0, f.stats()
    assert not aprompt.stats().submitted, aprompt.stats()
    kept.append(f("child"))  # the end of the process runs it
    queue.put((aprompt(1).result(), method(2).result()))

kept = []
"""


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    (tmp_path / f"batchify_by_{method}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, f"batchify_by_{method}", raising=False)
    module: Any = __import__(f"batchify_by_{method}")
    owner = module.Owner("owner")
    assert module.aprompt(0).result(LIMIT)[1] == owner.method(0).result(LIMIT)[2] == 0
    mine = module.lingers("parent")

    context: Any = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    child = context.Process(target=module.use, args=(module.lingers, owner.method, queue))
    child.start()
    child.join(LIMIT)
    assert child.exitcode == 0
    assert queue.get() == ((child.pid, 1), ("owner", child.pid, 2))
    queue.close()
    child.close()

    assert not mine.done()
    module.lingers.flush(LIMIT)
    pid = os.getpid()
    assert mine.result(0) == (pid, "parent")
    lines = (tmp_path / "ran").read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["child", "parent"]
    assert lines[1] == f"{pid} parent"
    module.lingers.close(LIMIT), module.aprompt.close(LIMIT), owner.method.close(LIMIT)
