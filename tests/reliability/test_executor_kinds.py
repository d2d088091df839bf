"""`executor=`: executors of unusual classes."""

from __future__ import annotations

from typing import Any

import pytest

from batchify import batched
from tests import elsewhere
from tests.limits import LIMIT
from tests.remote.executors import Opaque


@pytest.mark.parametrize("odd", ["no weak references", "no hash", "odd processes"])
def test_an_executor_of_its_own_kind(odd: str) -> None:
    class Slotted:
        __slots__ = ()

        def submit(self, function: Any, /, *args: Any) -> Any:
            return Opaque().submit(function, *args)

    class Unhashable(Opaque):
        def __eq__(self, other: object) -> bool:
            return NotImplemented

    class Odd(Opaque):
        _processes = 7

    kinds: Any = {"no weak references": Slotted, "no hash": Unhashable, "odd processes": Odd}
    f = batched(elsewhere.extra, executor=kinds[odd]())
    assert f(2, 3).result(LIMIT) == 6
    f._scope().executor_runner.abandon()
