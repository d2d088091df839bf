"""`executor=`: which functions and methods other processes can find."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from batchify import BatchAborted, batched
from tests import elsewhere
from tests.limits import LIMIT
from tests.remote.executors import METHODS, output_of, processes


@pytest.fixture(scope="module")
def shared() -> Iterator[ProcessPoolExecutor]:
    with processes(workers=2)() as executor:
        yield executor


def test_what_is_decorated_at_the_top_of_a_module() -> None:
    """The child imports the module, and decorates again, which starts nothing."""
    f = elsewhere.decorated
    f.start()
    assert [item for item, _ in f.map([1, 2, 3])] == [1, 2, 3]
    assert f(1).result(LIMIT)[1] != os.getpid()
    f.close()


def test_a_decorator_below_is_run_too() -> None:
    assert elsewhere.below(1).result(LIMIT)[0] == 2
    elsewhere.below.close()


def test_methods() -> None:
    model = elsewhere.Model(3)
    here = os.getpid()
    for future, value in [
        (model.scaled(2), 6),
        (elsewhere.Model.name(1), "Model"),
        (elsewhere.Stuck.name(1), "Stuck"),
        (elsewhere.Model.above(1), "Model"),
        (elsewhere.Model.static(5), 5),
    ]:
        result, process = future.result(LIMIT)
        assert result == value
        assert process != here
    for name in ("name", "static"):
        getattr(elsewhere.Model, name).close()
    elsewhere.Stuck.name.close()
    elsewhere.Model.above.close()
    model.scaled.close()


def test_an_instance_that_cannot_be_sent_is_reported() -> None:
    with pytest.raises(BatchAborted, match="TypeError while pickling"):
        elsewhere.Stuck().scaled(1).result(LIMIT)


def test_closing_one_instance_leaves_the_executor_to_the_others() -> None:
    one, other = elsewhere.Model(1), elsewhere.Model(2)
    _, process = one.scaled(1).result(LIMIT)
    one.scaled.close()
    assert other.scaled(1).result(LIMIT) == (2, process)
    assert other.private(3).result(LIMIT)[0] == 3
    other.scaled.close()


def lambdas() -> list[Any]:
    def local(items: list[int]) -> list[int]:
        return items

    class Callable_:
        def __call__(self, items: list[int]) -> list[int]:
            return items

    def renamed(items: list[int]) -> list[int]:
        return items

    renamed.__qualname__ = "where"
    renamed.__module__ = "tests.elsewhere"

    def gone(items: list[int]) -> list[int]:
        return items

    gone.__qualname__ = "no_such_function"
    return [lambda items: items, local, Callable_(), renamed, gone, sorted]


@pytest.mark.parametrize("function", lambdas()[:-1], ids=lambda f: type(f).__name__)
def test_what_has_no_name_is_refused_by_the_call(
    function: Any, shared: ProcessPoolExecutor
) -> None:
    f = batched(function, executor=shared)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"executor.*name"):
            f(1)
    assert f.stats().accepted == 0
    with ThreadPoolExecutor(1) as executor:
        assert batched(function, executor=executor)(1).result(LIMIT) == 1


def test_a_function_of_c_goes_by_name(shared: ProcessPoolExecutor) -> None:
    f = batched(sorted, executor=shared, linger=None)
    results = [f(n) for n in (2, 1)]
    f.flush(LIMIT)
    assert [future.result() for future in results] == [1, 2]


@pytest.mark.parametrize("method", METHODS)
def test_a_function_of_the_main_module(method: str) -> None:
    """A forked child has the same `__main__`; in a new process it is another module."""
    script = f"""
        import multiprocessing, os
        from concurrent.futures import ProcessPoolExecutor
        from batchify import batched

        def make():
            return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context({method!r}))

        @batched(executor=make)
        def f(items):
            return [(item, os.getpid()) for item in items]

        if __name__ == "__main__":
            try:
                item, process = f(1).result()
                print(item, process != os.getpid())
            except ValueError as error:
                print(error)
    """
    told = output_of(script)
    if method == "fork":
        assert told == "1 True\n"
    else:
        assert "__main__" in told
        assert told.startswith("executor: ProcessPoolExecutor")
