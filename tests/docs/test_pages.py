"""Every code block of the documentation does what it says.

The blocks of a page run from top to bottom, in one namespace:

- `python` blocks run; `pycon` blocks run and their output is compared; `toml` blocks are parsed;
- Python lines between `<!-- run:` and `-->` run, but are not shown: a fake server, or a check;
- any other block fails the test, unless `<!-- not run: why -->` stands above it; that also excludes
  a `python`, `pycon` or `toml` block.

`<!-- needs: fastapi, flask -->` names the packages that a page imports. The page is skipped if one
of them is missing, but not by `.ci/docs`, which runs all of these pages.

`<!-- run with Redis -->` above a block, or `<!-- run with Redis:` before hidden lines: the block
runs only if that server is installed (`SERVERS`). A hidden block starts it. Hidden blocks can use
`end_of_page`, an `ExitStack` that is closed after the last block.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import doctest
import inspect
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
from markdown_it import MarkdownIt

import batchify
from batchify import Batched, batched, testing
from batchify.__main__ import make_parser
from batchify.calls import Calls
from batchify.options import FIXED
from tests import redis_server
from tests.test_architecture import LAYERS, ON_TOP

ROOT = Path(__file__).parent.parent.parent
README = ROOT / "README.md"
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "CONTRIBUTING.md"]
HIDDEN = re.compile(r"<!-- run(?: with (\w+))?:\n(.*?)^-->", re.MULTILINE | re.DOTALL)
RUN_WITH = re.compile(r"<!-- run with (\w+) -->\s*\Z")
INITDB = shutil.which("initdb") or [*Path("/usr/lib/postgresql").glob("*/bin/initdb")]
SERVERS = {"Redis": redis_server.PROGRAM is not None, "PostgreSQL": bool(INITDB)}
NOT_RUN = re.compile(r"<!-- not run: \w.*-->\s*\Z", re.DOTALL)
NEEDS = re.compile(r"<!-- needs: (.*) -->")
DIRECTIVE = re.compile(r"\{(?!code|sourcecode|literalinclude|doctest|testcode)[\w:-]+\}")


def needs(page: Path) -> list[str]:
    """Return the optional modules that a page imports."""
    found = NEEDS.search(page.read_text("utf-8"))
    return found[1].split(", ") if found else []


def named(page: Path) -> str:
    name = page.relative_to(ROOT).as_posix()
    return f"{name} needs {', '.join(needs(page))}" if needs(page) else name


class Block(NamedTuple):
    """What stands in a page: its language, the line before its first, and if it is not to run."""

    language: str
    code: str
    line: int
    is_marked: bool = False


def blocks(text: str) -> Iterator[Block]:
    """Return all code blocks of a page, as a Markdown parser finds them."""
    before = ""
    for token in MarkdownIt("commonmark").parse(text):
        first = token.map[0] if token.map else 0
        if token.type == "html_block" and (hidden := HIDDEN.search(token.content)):
            yield Block("python", hidden[2], first + 1, not is_installed(hidden[1]))
        elif token.type in ("fence", "code_block") and not DIRECTIVE.match(token.info):
            is_fence = token.type == "fence"
            language = token.info.strip() or "a block without a language"
            server = RUN_WITH.search(before)
            yield Block(
                language if is_fence else "an indented block",
                token.content,
                first + is_fence,
                bool(NOT_RUN.search(before)) or not is_installed(server and server[1]),
            )
        before = token.content if token.type == "html_block" else ""


def is_installed(server: str | None) -> bool:
    """Return True if a block that needs this server can run; None: it needs none."""
    return server is None or SERVERS[server]


def run(block: Block, page: str, names: dict[str, Any]) -> None:
    """Run one block; every line keeps its number, so that a traceback leads to the page."""
    if block.is_marked:
        return
    if block.language == "python":
        code = "\n" * block.line + block.code
        exec(compile(code, page, "exec", dont_inherit=True), names)
    elif block.language == "pycon":
        told: list[str] = []
        test = doctest.DocTestParser().get_doctest(block.code, {}, page, page, block.line)
        test.globs = names
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        runner.run(test, out=told.append, clear_globs=False)
        assert not runner.failures, "".join(told)
    elif block.language == "toml":
        tomllib.loads(block.code)
    else:
        pytest.fail(
            f"{page}:{block.line}: {block.language} cannot be run; say so in a line above it: "
            f"<!-- not run: why -->"
        )


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_blocks_of_a_page_run(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in needs(page):
        pytest.importorskip(name)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # some look there for the names of a type
    names = vars(module)
    with ExitStack() as end_of_page:
        names["end_of_page"] = end_of_page
        for block in blocks(page.read_text("utf-8")):
            run(block, str(page), names)


@pytest.mark.parametrize(
    "text",
    [
        "```sh\nls\n```",
        "```\nls\n```",
        "~~~sh\nls\n~~~",
        "```{code-block} python\n1 / 0\n```",
        "- in a list\n\n  ```sh\n  ls\n  ```",
        "Indented:\n\n    1 / 0",
        "<!-- not run: too far away -->\n\nA paragraph\n\n```sh\nls\n```",
        "<!-- not run: -->\n```sh\nls\n```",
    ],
)
def test_what_is_neither_run_nor_marked_is_refused(text: str) -> None:
    [block] = blocks(text)
    with pytest.raises(pytest.fail.Exception, match="not run: why"):
        run(block, "page", {})


def test_a_failing_block_shows_its_line() -> None:
    [wrong] = blocks("Text\n\n```python\n\n1 / 0\n```")
    with pytest.raises(ZeroDivisionError) as caught:
        run(wrong, "page", {})
    assert caught.traceback[-1].lineno + 1 == 5
    [wrong] = blocks("```pycon\n>>> 1 + 1\n3\n```")
    with pytest.raises(AssertionError, match="Expected"):
        run(wrong, "page", {})
    [wrong] = blocks("<!-- run:\n1 / 0\n-->")
    with pytest.raises(ZeroDivisionError):
        run(wrong, "page", {})


def test_a_block_that_needs_a_server_runs_only_where_that_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "<!-- run with Redis:\n1 / 0\n-->\n\n<!-- run with Redis -->\n```python\n1 / 0\n```"
    for is_there in (False, True):
        monkeypatch.setitem(SERVERS, "Redis", is_there)
        assert [block.is_marked for block in blocks(text)] == [not is_there] * 2


def test_what_is_marked_is_not_run() -> None:
    [marked] = blocks("<!-- not run: it would end badly -->\n```python\n1 / 0\n```")
    run(marked, "page", {})


# ---- the reference, the architecture and README ----


def test_the_reference_has_every_name() -> None:
    pages = "".join(page.read_text("utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    told = set(re.findall(r"auto\w+:: batchify\.([\w.]+)", pages))
    assert set(batchify.__all__) <= told
    assert {f"testing.{name}" for name in testing.__all__} <= told
    assert "redis.RedisStreams" in told


def test_the_reference_has_every_command_and_its_options() -> None:
    page = (ROOT / "docs" / "reference" / "command-line.md").read_text("utf-8")
    told = {
        section.split("`")[1].split()[-1]: set(re.findall(r"^\| `(\S+?)[` ]", section, re.M))
        for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    }
    parser = make_parser()
    [commands] = [
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    ]
    assert told == {
        name: {
            (action.option_strings or [action.metavar])[-1]
            for action in command._actions
            if "--help" not in action.option_strings
        }
        for name, command in commands.choices.items()
    }


def test_the_architecture_lists_every_module_in_its_layer() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| (\d+) \| `(.+?)` \| \S.*\|$", page, re.MULTILINE)
    assert rows == [
        (str(height), module) for height, layer in enumerate(LAYERS) for module in layer
    ]
    told = re.findall(r"^\| top \| `(.+?)` \| \S.*\|$", page, re.MULTILINE)
    assert sorted(told) == sorted(ON_TOP)


# ---- pages that promise more ----


OPTIONS = sorted((ROOT / "docs" / "options").glob("*.md"))


@pytest.mark.parametrize("page", OPTIONS, ids=named)
def test_every_option_page_opens_with_an_example_that_runs(page: Path) -> None:
    opening = page.read_text("utf-8").partition("\n## ")[0]
    assert any(block.language == "python" for block in blocks(opening))


@pytest.mark.parametrize(
    ("page", "section"),
    [
        ("batching", "`size`"), ("batching", "`linger`"), ("batching", "`workers`"),
        ("grouping", "`key`"), ("grouping", "Extra arguments"), ("grouping", "`weight`"),
        ("grouping", "`dedupe`"), ("partial-failure", "Results by key"),
        ("partial-failure", "`isolate`"), ("partial-failure", "`on_error`"),
        ("retries", "`Retry`"), ("retries", "Retry a whole batch"),
        ("capacity", "Refuse"), ("capacity", "On an event loop"), ("capacity", "`exit_timeout`"),
        ("index", "Options of a call"), ("index", "Change options"),
    ],
)  # fmt: skip
def test_every_policy_has_an_example_that_runs(page: str, section: str) -> None:
    text = (ROOT / "docs" / "options" / f"{page}.md").read_text("utf-8")
    [found] = [one for one in re.split(r"^## ", text, flags=re.M)[1:] if one.startswith(section)]
    assert any(block.language in ("python", "pycon") for block in blocks(found))


def test_the_options_page_has_every_option_and_its_default() -> None:
    page = (ROOT / "docs" / "options" / "index.md").read_text("utf-8")
    table = page.partition("## Options of the decorator")[2].partition("\n## ")[0]
    rows = {
        name: default
        for names, default in re.findall(r"^\| (`.+?`) \| (.+?) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    options = dict(inspect.signature(batched).parameters)
    del options["func"]
    assert list(rows) == list(options)
    del options["capacity"], options["name"]  # they depend on other options, and on the function
    assert {name: rows[name] for name in options} == {
        name: str(option.default) for name, option in options.items()
    }


def test_the_blocks_of_the_readme_run() -> None:
    """The names that a reader has already are given."""
    code = compile(lines_of(README), str(README), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    names: dict[str, Any] = {
        "__name__": "readme", "User": str, "user": "ada",
    }  # fmt: skip
    awaited = eval(code, names)
    if inspect.isawaitable(awaited):
        asyncio.run(_whole(awaited))
    assert names["insert_users"].stats().succeeded == 2


def lines_of(page: Path) -> str:
    """Return all Python code of a page, with the line numbers of the page."""
    text = page.read_text("utf-8")
    lines = [""] * (text.count("\n") + 1)
    for block in blocks(text):
        if block.language == "python":
            code = block.code.splitlines()
            lines[block.line : block.line + len(code)] = code
    return "\n".join(lines)


def test_the_commands_of_the_readme_are_those_that_ci_runs() -> None:
    """`.ci/run` finds them by how they begin."""
    others = [
        block
        for block in blocks(README.read_text("utf-8"))
        if block.language != "python" and not block.is_marked
    ]
    assert len(others) == 2
    for block in others:
        assert block.language == "sh"
        assert re.fullmatch(r"python3 -m venv .*&&.*\n", block.code)


async def _whole(awaited: Any) -> None:
    await awaited


def test_the_reference_lists_every_call() -> None:
    page = (ROOT / "docs" / "reference" / "calls.md").read_text("utf-8")
    listed = set(re.findall(r"`(?:await |async with |with )?f\.(\w+)", page))
    assert listed == {name for name in dir(Calls) if not name.startswith("_")} - set(FIXED)
    assert all(hasattr(Batched, name) for name in listed)
