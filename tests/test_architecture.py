"""Modules import lower layers only, and stay small.

An item passes decorator -> intake -> forming -> running -> outcome -> future. The layers below say
which module may import which. A new module must be added to them.
"""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import batchify

ROOT = Path(batchify.__file__).parent

# From the lowest to the highest. A module may import only from layers below its own.
LAYERS = [
    ["errors", "_version", "distribution", "hints", "interpreter", "logs"],
    ["options", "finalizing", "unasked", "waits"],
    ["stats", "naming", "observe", "retry", "terms", "progress", "taskgraph", "waiters"],
    ["explain", "failure_log", "future", "stalls", "tracing", "outcome.tracebacks"],
    ["loopfuture", "outcome.copies", "outcome.protocol", "forming.states", "forming.ranking"],
    ["outcome.exceptions", "forming.base"],
    ["outcome.values", "forming.plain", "forming.recounting"],
    ["outcome.attempt", "forming.grouped"],
    ["outcome.bisect", "forming"],
    ["outcome.execution"],
    ["outcome"],
    ["engine", "engine.seam", "engine.lifecycle", "engine.telling"],
    ["engine.mending", "engine.manual", "remote"],
    ["codec", "engine.routing"],
    ["broker", "engine.looking"],
    ["engine.entry"],
    ["engine.batch"],
    ["engine.running"],
    ["engine.ending"],
    ["engine.base"],
    ["engine.control", "engine.threads", "engine.loop"],
    ["engine.background", "engine.answers"],
    ["engine.loops"],
    ["engine.sending"],
    ["scopes"],
    ["bulk", "static"],
    ["mapping"],
    ["view"],
    ["calls"],
    ["decorator"],
    ["redis.keys", "redis.connection"],
    ["redis.dead", "redis.consumer", "redis.producer"],
    ["api", "clock", "totals", "redis", "worker"],
    ["otel", "prometheus", "testing"],
    ["batchify"],  # the package itself: the public face
]
HEIGHT = {module: height for height, layer in enumerate(LAYERS) for module in layer}

# These modules use the public API: they may import `batchify` and each other.
ON_TOP = ("cli", "__main__", "pytest_plugin")

# (importer, imported): inside a function, when both modules are loaded already.
UPWARD = {("future", "loopfuture"), ("stats", "explain"), ("naming", "decorator")}

# Each belongs to one extra, which it imports; no other module imports it.
EXTRAS = {"otel": "opentelemetry", "prometheus": "prometheus_client", "redis": "redis"}

PURE = ["forming", "outcome"]  # these packages use no thread, lock, clock or I/O
IMPURE = {"asyncio", "threading", "_thread", "time", "os", "io", "socket", "selectors", "signal"}


class Arrow(NamedTuple):
    """One import, of a module of batchify or of a top-level package of others."""

    importer: str
    imported: str
    is_own: bool
    in_function: bool


def name_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts) or "batchify"


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text("utf-8")) for name, path in MODULES.items()}


def top(module: str) -> str:
    return module.partition(".")[0]


def is_on_top(module: str) -> bool:
    return top(module) in ON_TOP


def imports(body: list[ast.stmt], in_function: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    """Yield the import statements that run, and whether they are in a function."""
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node, in_function
        inner = in_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            if field == "body" and is_for_types_only(node):
                continue
            yield from imports(getattr(node, field, []), inner)


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def arrows_of(module: str) -> Iterator[Arrow]:
    for node, in_function in imports(TREES[module].body):
        targets = [alias.name for alias in node.names]  # type: ignore[attr-defined]
        if isinstance(node, ast.ImportFrom):
            source = absolute(module, node)
            whole = {f"{source}.{name}" for name in targets}
            own = {name for name in whole if name.removeprefix("batchify.") in MODULES}
            targets = [*own] + ([source] if own != whole else [])
        for target in targets:
            is_own = target.split(".")[0] == "batchify"
            imported = target.removeprefix("batchify.") if is_own else target.split(".")[0]
            yield Arrow(module, imported, is_own, in_function)


def absolute(module: str, node: ast.ImportFrom) -> str:
    """Return the full name of the module in `from ... import`."""
    if not node.level:
        return node.module or ""
    package = ["batchify"] if module == "batchify" else ["batchify", *module.split(".")]
    if MODULES[module].name != "__init__.py":
        package.pop()
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, *([node.module] if node.module else [])])


ARROWS = [arrow for module in MODULES for arrow in arrows_of(module)]
OWN = [arrow for arrow in ARROWS if arrow.is_own]


def test_the_test_sees_the_imports() -> None:
    """Check one known import of each form."""
    assert Arrow("future", "waits", True, False) in ARROWS  # from . import waits
    assert Arrow("outcome.exceptions", "errors", True, False) in ARROWS  # from .errors import ...
    assert Arrow("engine.threads", "outcome", True, False) in ARROWS  # from ..outcome import ...
    assert Arrow("engine.threads", "engine.lifecycle", True, False) in ARROWS
    assert Arrow("decorator", "wrapt", False, False) in ARROWS  # import wrapt
    assert not any(arrow[:2] == ("future", "engine.base") for arrow in ARROWS)  # TYPE_CHECKING


def test_every_module_has_its_layer() -> None:
    homeless = [module for module in MODULES if module not in HEIGHT and not is_on_top(module)]
    assert not homeless, "add them to LAYERS"
    gone = [module for module in HEIGHT if module not in MODULES]
    assert not gone, "remove them from LAYERS"


def test_imports_go_down_only() -> None:
    upward = {
        arrow
        for arrow in OWN
        if not is_on_top(arrow.importer)
        and (is_on_top(arrow.imported) or HEIGHT[arrow.imported] >= HEIGHT[arrow.importer])
        and not (arrow.in_function and arrow[:2] in UPWARD)
    }
    assert not upward


def test_the_exceptions_are_still_needed() -> None:
    assert UPWARD <= {arrow[:2] for arrow in OWN if arrow.in_function}


def test_there_is_no_circle_when_modules_are_loaded() -> None:
    graph: dict[str, set[str]] = {module: set() for module in MODULES}
    for arrow in OWN:
        if not arrow.in_function:
            graph[arrow.importer].add(arrow.imported)
    list(graphlib.TopologicalSorter(graph).static_order())  # a CycleError shows the circle


def test_modules_on_top_use_only_the_public_api() -> None:
    past_it = [
        arrow
        for arrow in OWN
        if is_on_top(arrow.importer)
        and arrow.imported not in ("batchify", "testing", "worker", "_version")
        and not is_on_top(arrow.imported)
    ]
    assert not past_it


def test_wrapt_is_the_only_dependency() -> None:
    others = {
        arrow
        for arrow in ARROWS
        if not arrow.is_own
        and arrow.imported not in sys.stdlib_module_names
        and not is_on_top(arrow.importer)
    }
    extras = {(top(arrow.importer), arrow.imported) for arrow in others}
    extras = {one for one in extras if one[0] in EXTRAS}
    assert extras == set(EXTRAS.items())
    others = {arrow for arrow in others if top(arrow.importer) not in EXTRAS}
    assert {arrow.imported for arrow in others if not arrow.in_function} == {"wrapt"}, others
    # Extras, imported inside functions.
    assert {arrow.imported for arrow in others if arrow.in_function} == {"tqdm"}, others


def test_only_extras_import_optional_packages() -> None:
    assert not {a for a in OWN if top(a.imported) in EXTRAS and top(a.importer) != top(a.imported)}


@pytest.mark.parametrize("room", PURE)
def test_the_pure_packages_are_pure(room: str) -> None:
    inside = [arrow for arrow in ARROWS if arrow.importer.split(".")[0] == room]
    assert inside
    assert not [arrow for arrow in inside if not arrow.is_own and arrow.imported in IMPURE]
    assert not [arrow for arrow in inside if arrow.imported.startswith("engine")]


def test_one_module_alone_knows_of_the_exit() -> None:
    assert {arrow.importer for arrow in ARROWS if arrow.imported == "atexit"} == {
        "engine.lifecycle"
    }


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_too_long(module: str) -> None:
    assert len(MODULES[module].read_text("utf-8").splitlines()) <= 500


def test_all_is_sorted_and_importable() -> None:
    names = batchify.__all__
    assert names == sorted(set(names))
    for name in names:
        assert getattr(batchify, name) is not None
        assert not name.startswith("_")


def test_the_public_face_is_nothing_but_names() -> None:
    docstring, *rest = TREES["batchify"].body
    assert isinstance(docstring, ast.Expr)
    imported = set()
    for node in rest[:-1]:
        assert isinstance(node, ast.ImportFrom), ast.unparse(node)
        imported |= {alias.asname or alias.name for alias in node.names}
    assert ast.unparse(rest[-1]).startswith("__all__ = ")
    assert imported - {"annotations"} == {name for name in batchify.__all__ if name[0] != "_"}
