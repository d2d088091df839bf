"""If an optional package is missing, the error names it and the command that installs it."""

from __future__ import annotations

import subprocess
import sys

import pytest

MISSING = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""

EXTRAS = [
    ("batchify.otel", "opentelemetry", "otel"),
    ("batchify.prometheus", "prometheus_client", "prometheus"),
    ("batchify.redis", "redis", "redis"),
]


def run(package: str, source: str) -> subprocess.CompletedProcess[str]:
    """Run `source` where `package` is not installed."""
    return subprocess.run(
        [sys.executable, "-c", MISSING.format(package=package) + source],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(("module", "package", "extra"), EXTRAS)
def test_the_import_says_what_to_install(module: str, package: str, extra: str) -> None:
    ended = run(package, f"import {module}")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(
        f"ModuleNotFoundError: {module} needs {package}"
    )
    assert ended.stderr.splitlines()[-1].endswith(f': pip install "batchify-py[{extra}]"')
    assert "another exception" not in ended.stderr


def test_the_error_keeps_the_name_of_what_is_missing() -> None:
    ended = run(
        "opentelemetry",
        """
try:
    import batchify.otel
except ImportError as error:
    print(error.name)
""",
    )
    assert ended.stdout.startswith("opentelemetry")


@pytest.mark.parametrize("command", ["demo", "tune"])
def test_a_command_says_what_to_install(command: str) -> None:
    arguments = [command] if command == "demo" else [command, "json:dumps"]
    ended = run("rich", f"from batchify.__main__ import main\nsys.exit(main({arguments!r}))")
    assert ended.returncode == 2
    assert ended.stderr.endswith(f'pip install "batchify-py[{command}]"\n')
    assert "Traceback" not in ended.stderr


def test_the_serializer_says_what_to_install() -> None:
    ended = run("msgpack", 'from batchify.codec import Codec\nCodec("msgpack", 1)')
    assert ended.stderr.endswith('serializer="msgpack" needs msgpack: pip install msgpack\n')


def test_the_bar_says_what_to_install() -> None:
    ended = run(
        "tqdm",
        """
import batchify
print(list(batchify.batched(lambda items: items).map([1, 2], progress=True)))
""",
    )
    assert ended.stdout == "[1, 2]\n"
    assert 'progress=True needs tqdm: pip install "batchify-py[progress]"' in ended.stderr
