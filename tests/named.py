"""List the tests, for the table of contracts and for the mutants, which name tests."""

from __future__ import annotations

import ast
import functools
from pathlib import Path


@functools.cache
def names_in(module: str) -> frozenset[str]:
    """Return the names of the functions in `tests/**/{module}.py`, including methods."""
    paths = list(Path(__file__).parent.rglob(f"{module}.py"))
    assert paths, f"there is no {module}.py"
    (path,) = paths
    tree = ast.parse(path.read_text("utf-8"))
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, functions))
