"""Measure the structure of batchify: the trip of one item, and how the code is divided.

    python -m benchmarks.structure                # print each figure, its limit and its target
    python -m benchmarks.structure --details      # and the places that the figures count
    python -m benchmarks.structure --check        # exit with 1 if a figure exceeds its limit
    python -m benchmarks.structure --record       # write the figures as limits of this Python

No figure depends on the load of the machine, and less is better. The limits are what was recorded
last (`structure.json`, by Python version), so that nothing becomes worse. The targets are those of
the architecture. The classes and imports are read from the source; nothing is imported for that.
"""

from __future__ import annotations

import argparse
import ast
import builtins
import json
import platform
import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from . import steps, trip

RECORD = Path(__file__).with_suffix(".json")
LAYERS = Path(__file__).parents[1] / "tests" / "test_architecture.py"

# Queues, engines, futures and deadlock detection, by their names before and after the rebuild.
ENGINE = (
    *("engine", "forming", "future", "loopfuture", "waiters", "waits"),
    *("core", "futures"),
)
# The modules of today's `outcome` after the rebuild. They are in `core`, but not in the engine.
OUTCOME = (
    *("core.protocol", "core.exceptions", "core.outcomes"),
    *("core.attempt", "core.bisect", "core.execution"),
)

LONG_FILE, LONG_CLASS = 400, 250  # lines
TYPES = ("static", "typing")  # the modules for type checkers, whose classes do not count
FOR_TYPES = {"Protocol", "NamedTuple", "TypedDict"}

# None: the architecture sets no number.
TARGETS: dict[str, int | None] = {
    "`def`, one item: calls": 30,
    "`def`, one item: functions": None,
    "`def`, one item: files": 8,
    "`def`, one item: moves from file to file": 14,
    "`def`, one item: bytecode steps": 1000,
    "`async def`, one item: calls": 30,
    "`async def`, one item: functions": None,
    "`async def`, one item: files": 8,
    "`async def`, one item: moves from file to file": 14,
    "`async def`, one item: bytecode steps": 1150,
    "classes that inherit from another": 0,
    "longest chain of classes": 1,
    "largest class: methods": None,
    "largest class: attributes": None,
    "layers": 7,
    "import circles": 0,
    "modules in import circles": 0,
    "engine: lines": 3500,
    "engine: modules": 16,
    f"files over {LONG_FILE} lines": 0,
    f"classes over {LONG_CLASS} lines": 0,
}


# ---- the source ----


class Class(NamedTuple):
    """A class of the package, with the names that it defines."""

    name: str  # with its module
    bases: tuple[str, ...]  # with their modules, if they are in the package
    lines: int
    methods: frozenset[str]
    attributes: frozenset[str]


class Source:
    """The modules of a package, with their imports and classes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = {self._name_of(path): path for path in sorted(root.rglob("*.py"))}
        self.trees = {name: ast.parse(path.read_text("utf-8")) for name, path in self.paths.items()}

    def _name_of(self, path: Path) -> str:
        parts = path.relative_to(self.root.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def lines(self, module: str) -> int:
        return len(self.paths[module].read_text("utf-8").splitlines())

    def modules(self, *names: str) -> list[str]:
        """Return the modules with these names, and those of the packages with these names."""
        full = [f"{self.root.name}.{name}" for name in names]
        return [one for one in self.paths if any(f"{one}.".startswith(f"{n}.") for n in full)]

    # ---- imports ----

    def _find_imports(self, module: str) -> Iterator[tuple[str, str]]:
        """Yield what a module imports from this package: its name there, and its full name.

        Imports for types only and imports in functions count.
        """
        for node in ast.walk(self.trees[module]):
            if isinstance(node, ast.Import):
                own = [(alias.asname or alias.name, alias.name) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                source = self._absolute(module, node)
                own = [(one.asname or one.name, f"{source}.{one.name}") for one in node.names]
            else:
                continue
            yield from ((name, full) for name, full in own if self._home(full))

    @cached_property
    def _imports(self) -> dict[str, list[tuple[str, str]]]:
        return {module: list(self._find_imports(module)) for module in self.paths}

    @cached_property
    def _names(self) -> dict[str, dict[str, str]]:
        return {module: dict(imports) for module, imports in self._imports.items()}

    def _absolute(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        is_package = self.paths[module].name == "__init__.py"
        parts = module.split(".")
        parts = parts[: len(parts) - node.level + is_package]
        return ".".join([*parts, *filter(None, [node.module])])

    def _home(self, full: str) -> str | None:
        """Return the module that has this name, or that is meant by it."""
        for name in (full, full.rpartition(".")[0]):
            if name in self.paths:
                return name
        return None

    @property
    def circles(self) -> list[frozenset[str]]:
        """The sets of modules that import each other, the largest first."""
        graph = {
            module: {home for _, full in imports if (home := self._home(full))}
            for module, imports in self._imports.items()
        }
        reached = {module: reachable(graph, module) for module in graph}
        found = {
            frozenset(other for other in reached[module] if module in reached[other])
            for module in graph
        }
        return sorted(filter(None, found), key=lambda circle: (-len(circle), sorted(circle)))

    # ---- classes ----

    @cached_property
    def classes(self) -> dict[str, Class]:
        found = {}
        for module, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    name = f"{module}.{node.name}"
                    bases = tuple(self._base(module, base) for base in node.bases)
                    lines = (node.end_lineno or node.lineno) - node.lineno + 1
                    attributes = frozenset(attributes_of(node))
                    found[name] = Class(name, bases, lines, frozenset(methods_of(node)), attributes)
        return found

    def _base(self, module: str, base: ast.expr) -> str:
        """Return the name of a base class, with its module if it is in this package."""
        text = ast.unparse(base.value if isinstance(base, ast.Subscript) else base)
        return self._definition(module, text)

    def _definition(self, module: str, name: str) -> str:
        first, _, rest = name.partition(".")
        full = self._names[module].get(first)
        if full is None:
            is_here = any(
                isinstance(node, ast.ClassDef) and node.name == name
                for node in ast.walk(self.trees[module])
            )
            return f"{module}.{name}" if is_here else name
        home, _, attribute = f"{full}.{rest}".rstrip(".").rpartition(".")
        return self._definition(home, attribute) if home in self.paths else full

    def inherited(self, name: str) -> set[str]:
        """Return the classes that a class inherits from, directly or not.

        Exceptions and what exists for types only, such as protocols, do not count.
        """
        bases = {base for base in self.classes[name].bases if self._counts(base)}
        return bases.union(*map(self.inherited, bases))

    def depth(self, name: str) -> int:
        """Return the length of the longest chain of classes that ends with this one."""
        bases = self.classes[name].bases
        return 1 + max((self.depth(base) for base in bases if self._counts(base)), default=0)

    def members(self, name: str) -> tuple[frozenset[str], frozenset[str]]:
        """Return the methods and the attributes of an object, with those that it inherits."""
        own = [self.classes[one] for one in (name, *self.inherited(name))]
        methods = frozenset(method for one in own for method in one.methods)
        return methods, frozenset(attribute for one in own for attribute in one.attributes)

    def _counts(self, name: str) -> bool:
        return name in self.classes and not self._is_aside(name)

    def _is_aside(self, name: str) -> bool:
        if name in self.classes:
            return any(map(self._is_aside, self.classes[name].bases))
        builtin = getattr(builtins, name, None)
        is_exception = isinstance(builtin, type) and issubclass(builtin, BaseException)
        return is_exception or name.rpartition(".")[2] in FOR_TYPES


def reachable(graph: Mapping[str, set[str]], start: str) -> set[str]:
    """Return what can be reached from `start`; that is `start` only if it is on a circle."""
    found: set[str] = set()
    to_visit = [start]
    while to_visit:
        new = graph[to_visit.pop()] - found
        found |= new
        to_visit += new
    return found


def methods_of(node: ast.ClassDef) -> Iterator[str]:
    for part in node.body:
        if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield part.name


def attributes_of(node: ast.ClassDef) -> Iterator[str]:
    """Yield what methods assign to `self`, what the body of the class assigns, and the slots."""
    for part in ast.walk(node):
        match part:
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                yield name
            case _:
                pass
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign):
            yield ast.unparse(statement.target)
        elif isinstance(statement, ast.Assign):
            names = [ast.unparse(target) for target in statement.targets]
            yield from slots(statement.value) if names == ["__slots__"] else names


def slots(value: ast.expr) -> list[str]:
    names = ast.literal_eval(value)
    return [names] if isinstance(names, str) else list(names)


def layers() -> int:
    """Return the number of layers that the test of the architecture declares."""
    for node in ast.parse(LAYERS.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "LAYERS":
            if isinstance(node.value, ast.Dict):
                return len(node.value.keys)
            if isinstance(node.value, (ast.List, ast.Tuple)):
                return len(node.value.elts)
    raise AssertionError(f"{LAYERS.name} declares no LAYERS")


# ---- the figures ----


class Figure(NamedTuple):
    """A figure, and the places that it counts."""

    value: int
    places: tuple[str, ...] = ()


def figures() -> dict[str, Figure]:
    """Measure everything in `TARGETS`."""
    found: dict[str, Figure] = {}
    for path, steps_path in (("def", "threads"), ("async def", "loop")):
        own = trip.in_new_process(trip.usual_trip, path)
        name = f"`{path}`, one item"
        found[f"{name}: calls"] = Figure(len(own.calls), tuple(trip.listed(own)))
        found[f"{name}: functions"] = Figure(own.functions)
        found[f"{name}: files"] = Figure(own.files)
        found[f"{name}: moves from file to file"] = Figure(own.moves)
        found[f"{name}: bytecode steps"] = Figure(trip.in_new_process(steps_of, steps_path))
    found["layers"] = Figure(layers())
    return found | figures_of(Source(trip.ROOT))


def figures_of(source: Source) -> dict[str, Figure]:
    """Return the figures that follow from the source."""
    types = source.modules(*TYPES)
    classes = [name for name in source.classes if name.rpartition(".")[0] not in types]
    largest = max(classes, key=lambda name: sum(map(len, source.members(name))))
    methods, attributes = source.members(largest)
    chains = {name: source.depth(name) for name in classes}
    heirs = tuple(f"{name}: {chains[name]} classes" for name in classes if chains[name] > 1)
    circles = source.circles
    outcome = source.modules(*OUTCOME)
    engine = tuple(one for one in source.modules(*ENGINE) if one not in outcome)
    files = {name: source.lines(name) for name in source.paths}
    return {
        "classes that inherit from another": Figure(len(heirs), heirs),
        "longest chain of classes": Figure(max(chains.values())),
        "largest class: methods": Figure(len(methods), (largest,)),
        "largest class: attributes": Figure(len(attributes), (largest,)),
        "import circles": Figure(len(circles), tuple(", ".join(sorted(one)) for one in circles)),
        "modules in import circles": Figure(len(frozenset().union(*circles))),
        "engine: lines": Figure(sum(files[name] for name in engine)),
        "engine: modules": Figure(len(engine), engine),
        f"files over {LONG_FILE} lines": above(LONG_FILE, files),
        f"classes over {LONG_CLASS} lines": above(
            LONG_CLASS, {name: source.classes[name].lines for name in classes}
        ),
    }


def above(limit: int, lines: Mapping[str, int]) -> Figure:
    places = tuple(f"{name}: {count} lines" for name, count in lines.items() if count > limit)
    return Figure(len(places), places)


def ask_for_opcodes() -> None:
    """Ask for opcodes before a trace function is set; Python 3.12 traces none otherwise."""
    sys._getframe().f_trace_opcodes = True


def steps_of(path: str) -> int:
    """Return the bytecode steps of one call. Call this in a new process, as `usual_trip`."""
    ask_for_opcodes()
    run, kind = steps.PATHS[path]
    counted = steps.Steps()
    run(kind, counted)
    return round(counted.steps.total() / steps.CALLS)


# ---- the report ----


def table(found: Mapping[str, Figure], limits: Mapping[str, int]) -> str:
    """Return the figures as a Markdown table."""
    lines = ["| | now | limit | target | |", "|---|--:|--:|--:|---|"]
    for name, target in TARGETS.items():
        value, limit = found[name].value, limits.get(name)
        mark = "" if target is None else "reached" if value <= target else "not yet"
        if name in exceeded(found, limits):
            mark = "**worse than the limit**"
        cells = [text(value), text(limit), text(target), mark]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def text(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def exceeded(found: Mapping[str, Figure], limits: Mapping[str, int]) -> list[str]:
    """Return the figures that are worse than their limit."""
    return [name for name, figure in found.items() if figure.value > limits.get(name, figure.value)]


def details(found: Mapping[str, Figure]) -> Iterator[str]:
    """Yield the places that the figures count."""
    for name, figure in found.items():
        if figure.places:
            yield f"\n{name}: {figure.value}"
            yield from (f"  {place}" for place in figure.places)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.structure",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--details", action="store_true", help="list the places that the figures count")
    add("--check", action="store_true", help="exit with 1 if a figure exceeds its limit")
    add("--record", action="store_true", help="write the figures as limits of this Python")
    given = parser.parse_args()
    version = ".".join(platform.python_version_tuple()[:2])
    record: dict[str, dict[str, int]] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    found = figures()
    if given.record:
        record[version] = {name: found[name].value for name in TARGETS}
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
    limits = record.get(version, {})
    print(table(found, limits))
    if given.details:
        print(*details(found), sep="\n")
    if not limits:
        print(f"no record for Python {version}: nothing to compare with", file=sys.stderr)
    return 1 if given.check and exceeded(found, limits) else 0


if __name__ == "__main__":
    sys.exit(main())
