"""Queued items keep their instance alive."""

from __future__ import annotations

import gc

from tests.api.methods import Plain
from tests.limits import LIMIT


def test_queued_items_keep_their_instance_alive() -> None:
    future = Plain("a").method(0)
    gc.collect()
    rest = Plain("z")
    assert rest.name == "z"
    assert not future.done()
    future._s.engine.flush()
    assert future.result(LIMIT) == ("a", 0)
