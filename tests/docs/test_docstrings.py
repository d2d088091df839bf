"""The examples in docstrings do what they show."""

from __future__ import annotations

import doctest
import pkgutil

import pytest

import batchify

MODULES = [
    module.name
    for module in pkgutil.walk_packages(batchify.__path__, "batchify.")
    if not module.name.endswith("__main__")
]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FINDER = doctest.DocTestFinder(exclude_empty=True)


def examples_of(name: str) -> list[doctest.DocTest]:
    module = pytest.importorskip(name, exc_type=ImportError)
    return [test for test in FINDER.find(module, name) if test.examples]


@pytest.mark.parametrize("name", ["batchify", *MODULES])
def test_the_examples_in_docstrings_run(name: str) -> None:
    for test in examples_of(name):
        report: list[str] = []
        runner = doctest.DocTestRunner(optionflags=FLAGS)
        test.globs = {}  # an example imports what it needs, as its reader must
        runner.run(test, out=report.append)
        assert not runner.failures, "".join(report)


def test_the_public_names_have_examples() -> None:
    found = {
        test.name
        for name in ("api", "calls", "observe", "retry", "stats", "view")
        for test in examples_of(f"batchify.{name}")
    }
    assert found >= {
        "batchify.api.batched",
        "batchify.calls.Calls.batch",
        "batchify.calls.Calls.options",
        "batchify.calls.Calls.stats",
        "batchify.calls.Calls.submit",
        "batchify.calls.Calls.submit_nowait",
        "batchify.observe.observe",
        "batchify.retry.Retry",
        "batchify.stats.Stats.explain",
        "batchify.view.Maps.amap",
        "batchify.view.Maps.map",
    }


def test_a_wrong_example_is_found() -> None:
    test = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    runner.run(test, out=lambda _: None)
    assert runner.failures == 1
