"""A batched function is pickled by its name, or the error says what to do instead."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batchify import batched


@batched
def double(items: list[int]) -> list[int]:
    return [2 * item for item in items]


def uses_double(item: int) -> int:
    return double(item).result(60)


class Store:
    def __init__(self) -> None:
        self.save_later = self.save

    @batched
    def save(self, items: list[int]) -> list[int]:
        return items


def run_script(path: Path, source: str) -> str:
    script = path / "script.py"
    script.write_text(source)
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_a_function_is_pickled_by_name() -> None:
    assert pickle.loads(pickle.dumps(double)) is double
    assert pickle.loads(pickle.dumps([double, {"by": double}]))[0] is double


def test_an_object_that_stores_its_own_method() -> None:
    loaded = pickle.loads(pickle.dumps(Store()))
    assert loaded.save_later.__self__ is loaded
    assert loaded.save_later(1).result(60) == 1


def test_a_local_function_cannot_be_pickled_and_the_error_says_what_to_do() -> None:
    @batched
    def local(items: list[int]) -> list[int]:
        return items

    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(pickle.PicklingError, match=r"<locals>\.local is a batched function"):
            pickle.dumps(local, protocol)
    with pytest.raises(pickle.PicklingError, match="top level of a module"):
        pickle.dumps(local)


def test_a_lambda_cannot_be_pickled() -> None:
    with pytest.raises(pickle.PicklingError, match="top level of a module"):
        pickle.dumps(batched(lambda items: items))


def test_a_function_that_is_hidden_by_another_cannot_be_pickled() -> None:
    again = batched(uses_double)
    with pytest.raises(pickle.PicklingError, match=r"uses_double is a batched function"):
        pickle.dumps(again)


def test_cloudpickle_takes_an_importable_function_by_name() -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    assert pickle.loads(cloudpickle.dumps(double)) is double
    assert pickle.loads(cloudpickle.dumps(lambda item: double(item)))(2).result(60) == 4
    assert pickle.loads(cloudpickle.dumps(Store().save))(1).result(60) == 1


def test_cloudpickle_of_a_local_function_says_what_to_do() -> None:
    cloudpickle = pytest.importorskip("cloudpickle")

    @batched
    def local(items: list[int]) -> list[int]:
        return items

    def caller(item: int) -> Any:
        return local(item)

    for function in (local, caller):
        with pytest.raises(pickle.PicklingError, match=r"local is a batched function.*top level"):
            cloudpickle.dumps(function)


def test_cloudpickle_of_a_function_in_main_says_what_to_do(tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    told = run_script(
        tmp_path,
        """
import pickle
import cloudpickle
from batchify import batched

@batched
def insert(items):
    return items

class Store:
    @batched
    def save(self, items):
        return items

class StaticStore:
    @batched
    @staticmethod
    def check(items):
        return items

class ClassStore:
    @batched
    @classmethod
    def count(cls, items):
        return items

for function in (
    lambda item: insert(item), insert, Store().save, Store.save, StaticStore.check, ClassStore.count
):
    try:
        cloudpickle.dumps(function)
    except pickle.PicklingError as error:
        print(error)
""",
    )
    lines = told.splitlines()
    names = [
        "insert",
        "insert",
        "Store.save",
        "Store.save",
        "StaticStore.check",
        "ClassStore.count",
    ]
    assert len(lines) == len(names), told
    for line, name in zip(lines, names, strict=True):
        assert line.startswith(f"{name} is a batched function"), line
        assert "top level of a module" in line


def test_pickle_in_main_is_by_name(tmp_path: Path) -> None:
    told = run_script(
        tmp_path,
        """
import pickle
from batchify import batched

@batched
def insert(items):
    return items

print(pickle.loads(pickle.dumps(insert)) is insert)
""",
    )
    assert told == "True\n"
