"""A test library that freezes the clock stops no linger, deadline or exit.

Lingers and deadlines of callers on an event loop use the timers of that loop. These stop together
with the loop's clock, as `asyncio.sleep` does.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.own_process import output_of_script

LIMIT = 120.0  # seconds after which a script counts as hung

# What freezegun does: it replaces the functions in all modules, by their identity.
FREEZE_BY_HAND = """
def freeze():
    import sys, time
    real = time.monotonic
    def monotonic():
        return 1000.0
    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()):
            if value is real:
                setattr(module, name, monotonic)
"""
FREEZE_BY_FREEZEGUN = """
def freeze():
    import freezegun
    freezegun.freeze_time("2024-01-01").start()
"""
LINGERS = """
import asyncio, time
{first}
from batchify import batched
{then}
@batched(linger=0.01, name="f")
{kind} f(items):
    return items

@batched(linger=1000, name="g")
{kind} g(items):
    print("at exit", items, flush=True)

print(f(1).result())
print(type(f.options(deadline=0).submit(2).exception()).__name__)
f.flush(timeout=60)
g(3)
"""


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("when", ["before import", "after import"])
@pytest.mark.parametrize("by", ["hand", "freezegun"])
def test_a_frozen_clock_stops_nothing(tmp_path: Path, by: str, when: str, kind: str) -> None:
    if by == "freezegun":
        pytest.importorskip("freezegun")
    freeze = FREEZE_BY_HAND if by == "hand" else FREEZE_BY_FREEZEGUN
    first, then = ("freeze()", "") if when == "before import" else ("", "freeze()")
    script = freeze + LINGERS.format(first=first, then=then, kind=kind)
    assert output_of_script(tmp_path, script) == "1\nDeadlineExceeded\nat exit [3]\n"


def test_a_loop_whose_clock_freezegun_leaves_alone_lingers(tmp_path: Path) -> None:
    pytest.importorskip("freezegun")
    script = """
        import asyncio, freezegun

        async def main():
            from batchify import batched

            @batched(linger=0.01)
            async def f(items):
                return items

            print(await f(1))

        with freezegun.freeze_time("2024-01-01", real_asyncio=True):
            asyncio.run(main())
    """
    assert output_of_script(tmp_path, script) == "1\n"
