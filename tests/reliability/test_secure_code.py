"""The package runs no pickle and no `eval`, and reads nothing from the environment: contract 6."""

from __future__ import annotations

import ast

from tests.leaks import PACKAGE

FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "ctypes", "subprocess", "dill", "cloudpickle"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "getenv", "system", "popen"}


def offences(source: str) -> list[str]:
    """Return forbidden code of this project, as `line: what`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").split(".")[0]]
            names += [alias.name for alias in node.names if alias.name in ("environ", "getenv")]
        elif isinstance(node, ast.Call):
            function = node.func
            name = getattr(function, "id", None) or getattr(function, "attr", "")
            is_re = isinstance(function, ast.Attribute) and name == "compile"
            names = [name] if name in FORBIDDEN_CALLS and not is_re else []
        elif isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv"):
            names = [node.attr]
        bad = FORBIDDEN_MODULES | FORBIDDEN_CALLS | {"environ", "environb"}
        found += [f"{getattr(node, 'lineno', 0)}: {name}" for name in names if name in bad]
    return found


def test_no_pickle_no_eval_and_nothing_that_the_environment_decides() -> None:
    found = {
        str(path.relative_to(PACKAGE)): offences(path.read_text("utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }
    # `executor=` asks for it (and nothing else loads that module, see test_executors).
    for named in ("remote.py", "codec.py"):  # `executor=`, and `serializer="pickle"`
        assert [what.split(": ")[1] for what in found.pop(named)] == ["pickle"]
    assert {name: what for name, what in found.items() if what} == {}
    bad = "import pickle\nfrom os import environ\neval('1')\nos.environ['X']\nos.getenv('X')\n"
    assert [offence.split(": ")[1] for offence in offences(bad)][:3] == [
        "pickle",
        "environ",
        "eval",
    ]
    assert len(offences(bad)) >= 5
