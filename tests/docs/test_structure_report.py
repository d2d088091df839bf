"""The report on the structure counts what it says, and fails if a figure becomes worse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import structure, trip
from benchmarks.structure import TARGETS, Figure, Source, exceeded, figures_of, layers, table
from benchmarks.trip import Call, Trip
from tests.limits import LIMIT

ROOT = Path(__file__).parents[2]
LONG_METHOD = "\n".join(f"        {number}" for number in range(structure.LONG_CLASS))


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return an empty package."""
    root = tmp_path / "pack"
    for name in ("", "engine", "core"):
        (root / name).mkdir()
        (root / name / "__init__.py").touch()
    return root


def write(package: Path, **modules: str) -> Source:
    """Write modules into a package; in the names, `_` stands for a slash."""
    for name, text in modules.items():
        folder, _, file = name.rpartition("_")
        (package / folder / (file or "__init__")).with_suffix(".py").write_text(text)
    return Source(package)


# ---- circles ----


@pytest.mark.parametrize(
    "back",
    [
        "from .a import x",
        "from . import a",
        "from pack import a",
        "import pack.a",
        "import pack.a as other",
        "def f():\n    from .a import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .a import x",
    ],
)
def test_every_import_counts_for_a_circle(package: Path, back: str) -> None:
    source = write(package, a="class A: pass\nfrom . import b", b=back)
    assert source.circles == [{"pack.a", "pack.b"}]
    found = figures_of(source)
    assert found["import circles"] == Figure(1, ("pack.a, pack.b",))
    assert found["modules in import circles"].value == 2


def test_a_circle_through_another_module(package: Path) -> None:
    source = write(
        package, a="from . import b", b="from .engine import c", engine_c="from ..a import x"
    )
    assert source.circles == [{"pack.a", "pack.b", "pack.engine.c"}]


def test_no_import_hides_another_of_the_same_name(package: Path) -> None:
    text = "def f():\n    from .b import x\ndef g():\n    from .c import x"
    source = write(package, a=text, b="from . import a", c="from . import a")
    assert source.circles == [{"pack.a", "pack.b", "pack.c"}]


def test_imports_without_a_circle(package: Path) -> None:
    source = write(package, a="from .b import b", b="import os\nfrom os import path", c="import a")
    assert source.circles == []


# ---- classes ----


def test_inheritance_is_followed_through_imports(package: Path) -> None:
    source = write(
        package,
        engine_base="class Top: pass\nclass Middle(Top): pass",
        engine_other="from . import base\nclass Lower(base.Middle): pass",
        engine_="from .other import Lower as Renamed",
        user="from .engine import Renamed\nclass User(Renamed[int], dict): pass\nclass Alone: pass",
    )
    assert source.depth("pack.user.User") == 4
    assert source.inherited("pack.user.User") == {
        "pack.engine.base.Top",
        "pack.engine.base.Middle",
        "pack.engine.other.Lower",
    }
    found = figures_of(source)
    assert found["classes that inherit from another"].value == 3
    assert found["longest chain of classes"].value == 4


def test_exceptions_and_types_do_not_count_as_inheritance(package: Path) -> None:
    source = write(
        package,
        errors="class Top(KeyError): pass\nclass Lower(Top): pass\nclass Lowest(Lower): pass",
        protocols="import typing\nclass Seam(typing.Protocol[int]): pass\nclass Real(Seam): pass",
        static="class Maps: pass\nclass More(Maps): pass",
        row="from typing import NamedTuple\nclass Row(NamedTuple): pass\nclass Better(Row): pass",
    )
    found = figures_of(source)
    assert found["classes that inherit from another"].places == ()
    assert found["longest chain of classes"].value == 1


def test_the_largest_class_has_what_it_inherits(package: Path) -> None:
    source = write(
        package,
        a="""
class Top:
    __slots__ = ("one", "two")
    LIMIT = 3
    def method(self): self.one = self.three = 1
    def other(self): self.one.four = five = 5
class Lower(Top):
    six: int
    def method(self): self.seven += 1
    async def more(self): pass
class Small:
    def method(self): pass
""",
    )
    methods, attributes = source.members("pack.a.Lower")
    assert methods == {"method", "other", "more"}
    assert attributes == {"one", "two", "three", "six", "seven", "LIMIT"}
    found = figures_of(source)
    assert found["largest class: methods"] == Figure(3, ("pack.a.Lower",))
    assert found["largest class: attributes"].value == 6


# ---- lines ----


def test_only_the_engine_counts_as_the_engine(package: Path) -> None:
    source = write(
        package,
        engine_a="1\n2\n3",
        core_queue="1\n2",
        core_bisect="1\n2\n3\n4",
        future="1",
        futureless="1\n2",
        a="class A: pass",
    )
    found = figures_of(source)
    assert set(found["engine: modules"].places) == {
        *("pack.engine", "pack.engine.a", "pack.core", "pack.core.queue", "pack.future"),
    }
    assert found["engine: lines"].value == 6


def test_long_files_and_classes_are_named(package: Path) -> None:
    source = write(
        package,
        a=f"class Long:\n    def f(self):\n{LONG_METHOD}\nclass Short: pass",
        b="\n" * structure.LONG_FILE,
        c="\n" * structure.LONG_FILE + "1",
    )
    found = figures_of(source)
    assert found["files over 400 lines"].places == ("pack.c: 401 lines",)
    assert found["classes over 250 lines"].places == ("pack.a.Long: 252 lines",)


def test_the_layers_are_those_of_the_test() -> None:
    from tests.test_architecture import LAYERS

    assert layers() == len(LAYERS)


# ---- trips ----


def test_moves_are_counted_within_a_thread() -> None:
    calls = [
        *(Call(0, "a.py", "f"), Call(0, "a.py", "g"), Call(0, "b.py", "f"), Call(0, "a.py", "f")),
        *(Call(1, "b.py", "f"), Call(1, "c.py", "f")),
    ]
    found = Trip(tuple(calls))
    assert (len(found.calls), found.functions, found.files, found.moves) == (6, 4, 3, 3)
    assert list(trip.listed(found))[:4] == ["  thread 0", "    a.py", "      f", "      g"]


@pytest.mark.parametrize("path", trip.PATHS)
def test_a_trip_is_always_the_same(path: str) -> None:
    first, second = (trip.in_new_process(trip.usual_trip, path) for _ in range(2))
    assert first == second
    assert first.calls
    assert {call.thread for call in first.calls} == ({0, 1} if path == "def" else {0})


# ---- the report ----


def test_a_figure_above_its_limit_is_worse() -> None:
    found = {name: Figure(5) for name in TARGETS}
    assert exceeded(found, {}) == []
    assert exceeded(found, {"layers": 5, "import circles": 6}) == []
    assert exceeded(found, {"layers": 4, "import circles": 6}) == ["layers"]
    lines = table(found, {"layers": 4}).splitlines()
    assert "| layers | 5 | 4 | 7 | **worse than the limit** |" in lines
    assert "| import circles | 5 | - | 0 | not yet |" in lines
    assert len(lines) == len(TARGETS) + 2


def test_the_record_has_every_figure() -> None:
    for limits in json.loads(structure.RECORD.read_text()).values():
        assert set(limits) == set(TARGETS)


def test_the_program_prints_every_figure() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.structure"],
        cwd=ROOT, check=True, capture_output=True, text=True, timeout=LIMIT,
    )  # fmt: skip
    for name in TARGETS:
        assert sum(line.startswith(f"| {name} | ") for line in done.stdout.splitlines()) == 1
