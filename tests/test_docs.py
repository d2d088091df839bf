"""Every code block of the documentation does what it says."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from batchify import Batched, batched
from batchify.calls import Calls
from batchify.options import UNSET

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> str:
    """The code of a page, every line where it stands there: a traceback leads to the page."""
    text = page.read_text("utf-8")
    lines = [""] * (text.count("\n") + 1)
    for block in BLOCK.finditer(text):
        first = text[: block.start(1)].count("\n")
        for number, line in enumerate(block[1].splitlines()):
            lines[first + number] = line
    return "\n".join(lines)


def test_there_are_pages() -> None:
    assert PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_blocks_of_a_page_run(page: Path) -> None:
    code = blocks(page)
    assert code.strip()
    exec(compile(code, str(page), "exec"), {"__name__": "docs"})


def test_every_policy_has_an_example_that_runs() -> None:
    text = (ROOT / "docs" / "policies.md").read_text("utf-8")
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        assert BLOCK.search(section), section.splitlines()[0]


def test_the_blocks_of_the_readme_run() -> None:
    """With something for what a reader has already: users, rows, and the imports of its scripts."""
    code = compile(blocks(README), str(README), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, Any] = {
        "__name__": "readme", "User": str, "user": "ada", "Row": dict, "row": {},
        "signal": signal, "sys": sys,
    }  # fmt: skip
    handler = signal.getsignal(signal.SIGTERM)
    try:
        awaited = eval(code, names)
        if inspect.isawaitable(awaited):
            asyncio.run(_whole(awaited))
    finally:
        signal.signal(signal.SIGTERM, handler)
    assert names["insert_users"].stats().succeeded == 2
    assert names["insert"].stats().accepted == 1


async def _whole(awaited: Any) -> None:
    await awaited


def test_the_readme_tells_every_option_and_its_default() -> None:
    table = README.read_text("utf-8").partition("## When a batch leaves")[2].partition("## ")[0]
    told = {
        name: default
        for names, default in re.findall(r"^\| (`.+?`) \| (.+?) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    options = dict(inspect.signature(batched).parameters)
    del options["func"]
    assert list(told) == list(options)
    assert (options.pop("capacity").default, options.pop("name").default) == (UNSET, None)
    assert {name: told[name] for name in options} == {
        name: str(option.default) for name, option in options.items()
    }


def test_the_readme_tells_every_call() -> None:
    told = set(re.findall(r"`(?:await |async with |with )?f\.(\w+)", README.read_text("utf-8")))
    calls = {name for name in vars(Calls) if not name.startswith("_")}
    assert told == calls
    assert all(hasattr(Batched, name) for name in told)
