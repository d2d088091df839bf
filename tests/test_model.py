"""The engine against the model, in parts; what it found; and proof that it detects faults."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from typing import Any

import pytest

from batchify import BatchAborted
from batchify.engine.base import Engine
from batchify.engine.ending import Ending
from batchify.engine.looking import Looking
from batchify.engine.routing import Routing
from batchify.engine.running import Running
from batchify.engine.telling import Telling
from batchify.engine.threads import ThreadEngine
from batchify.forming import Plain
from tests import model
from tests.tiers import few

PLAIN = {"kinds": "", "size": 2, "linger": 0.0, "workers": 1, "room": 0}


def test_quick() -> None:
    model.run(50, 30, seed=1)


@pytest.mark.deep
@pytest.mark.parametrize("part", range(20))
def test_the_engine_does_what_the_model_says(part: int) -> None:
    model.run(100, 50, seed=100 + part)


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    given = "--examples 20 --steps 20 --seed 3 --processes 1"
    assert model.main(given.split()) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("seed 3\n")
    assert "20 examples" in printed
    assert "nothing found" in printed


# ---- failures that it found ----


def test_capacity_of_an_overdue_item_is_used_by_the_next_batch() -> None:
    late = {"deadline": 0.5 + 1 / 16}
    model.replay(
        PLAIN,
        ("special", {"bits": 0, "how": late}),
        ("one", {"bits": 0}),
        ("advance", {"seconds": 1.0}),
        ("one", {"bits": 0}),  # waits for capacity
        ("end_badly", {"at": 0, "kind": "retry later", "place": 0}),
    )


def test_a_close_that_wakes_late_does_not_end_the_next_one() -> None:
    model.replay(
        PLAIN,
        ("hold", {}),
        ("one", {"bits": 0}),
        ("close", {"cancel": False, "timeout": None}),
        ("close", {"cancel": True, "timeout": None}),
        ("start", {}),
        ("one", {"bits": 0}),
        ("close", {"cancel": False, "timeout": 6 + 1 / 128}),
    )


def test_a_retried_group_is_as_old_as_its_oldest_item() -> None:
    model.replay(
        PLAIN | {"size": 4, "linger": 4.0, "room": None, "kinds": "args"},
        ("many", {"bits": 2, "count": 6}),
        ("flush", {"timeout": None}),
        ("end_badly", {"at": 0, "kind": "retry all", "place": 1}),
    )


def test_a_line_that_was_cleared_keeps_no_engine() -> None:
    gc.collect()
    gc.disable()
    try:
        model.replay(
            PLAIN | {"size": 3, "room": 1, "linger": None},
            ("hold", {}),
            ("many", {"bits": 0, "count": 6}),
            ("close", {"cancel": True, "timeout": None}),
        )
    finally:
        gc.enable()


def test_a_batch_with_a_flushed_item_that_runs_again_is_a_flushed_one() -> None:
    model.replay(
        PLAIN,
        ("one", {"bits": 0}),
        ("flush", {"timeout": None}),
        ("one", {"bits": 0}),
        ("end_badly", {"at": 0, "kind": "retry all", "place": 0}),
        ("end_badly", {"at": 0, "kind": "retry later", "place": 1}),
    )


def test_equal_items_do_not_make_the_model_take_one_batch_for_another() -> None:
    # The function is given the same for [#6] and for [#6, #11]: its first mistake was to guess.
    model.replay(
        PLAIN
        | {"size": 4, "workers": 3, "linger": None, "room": None, "kinds": "key weight dedupe"},
        ("another", {"bits": 10}),
        ("flush", {"timeout": 2.0078125}),
        ("configure", {"change": ("capacity", 6)}),
        ("special", {"bits": 8, "how": {"timeout": 1.53125}}),
        ("flush", {"timeout": None}),
        ("stream_some", {"at": 1, "count": 3, "kind": ""}),
        ("configure", {"change": ("workers", 2)}),
        ("configure", {"change": ("size", 1)}),
        ("another", {"bits": 2}),
        ("special", {"bits": 14, "how": {"priority": -2}}),
        ("another", {"bits": 23}),
        ("another", {"bits": 7}),
        ("stream_some", {"at": 2, "count": 1, "kind": ""}),
        ("another", {"bits": 23}),
        ("cancel", {"at": 3}),
        ("another", {"bits": 9}),
        ("another", {"bits": 22}),
        ("special", {"bits": 11, "how": {"priority": 1}}),
        ("configure", {"change": ("workers", 3)}),
        ("configure", {"change": ("size", 5)}),
        ("cancel", {"at": 4}),
        ("flush", {"timeout": 2.0078125}),
        ("advance", {"seconds": 1.0}),
    )


def test_flushed_retries_run_without_delay() -> None:
    # The second time it was flushed while it waited to run again.
    model.replay(
        PLAIN | {"size": 4, "room": 1, "linger": 4.0, "workers": 3, "kinds": "args"},
        ("flush", {"timeout": 6.0078125}),
        ("many", {"bits": 17, "count": 5}),
        ("another", {"bits": 10}),
        ("end_badly", {"at": 0, "kind": "retry later", "place": 3}),
        ("flush", {"timeout": None}),
        ("end_badly", {"at": 0, "kind": "set", "place": 1}),
        ("end_badly", {"at": 1, "kind": "retry later", "place": 2}),
    )


# ---- proof that it detects faults ----


def broken(cls: Any, name: str, how: Callable[..., Any]) -> tuple[Any, str, Any]:
    real = cls.__dict__[name]

    def wrong(self: Any, *args: Any, **kwargs: Any) -> Any:
        return how(lambda: real(self, *args, **kwargs), self, *args, **kwargs)

    return cls, name, wrong


def shifted(settle: Any, self: Any, batch: Any, give: Any) -> None:
    if len(give.values) > 1:
        give.values = [*give.values[1:], give.values[0]]
    settle()


def miscounted(end: Any, self: Any, *args: Any) -> Any:
    self.counts.cancelled += 1
    return end()


def unnumbered(settle: Any, self: Any, batch: Any, *args: Any) -> None:
    settle()
    self.forming.running -= 1


def one_too_many(take: Any, self: Any, group: Any, batch: Any) -> Any:
    self.size += 1
    try:
        return take()
    finally:
        self.size -= 1


def backwards(take: Any, self: Any, group: Any, batch: Any) -> Any:
    return take()[::-1]


def twice(execute: Any, self: Any, batch: Any) -> None:
    items = [future._v for future in batch.futures]
    with contextlib.suppress(BaseException):
        batch.route.function(items, *batch.route.args)
    execute()


def nothing(*_: Any) -> None:
    return


def forgotten(end: Any, self: Any, now: float) -> None:
    self.forming.overdue(now)


def only_exceptions(settle: Any, self: Any, batch: Any, give: Any) -> None:
    if not any(isinstance(getattr(value, "error", None), BatchAborted) for value in give.values):
        settle()


_route = Routing._route


def mixed(self: Any, key: Any, *args: Any) -> Any:
    return _route(self, 0, *args)


BREAKS = {
    "results shifted by one": broken(Running, "settle", shifted),
    "cancel counts twice": broken(Ending, "cancel", miscounted),
    "room that is free too early": broken(Running, "settle", unnumbered),
    "batches larger than size": broken(Plain, "take", one_too_many),
    "batches in the wrong order": broken(Plain, "take", backwards),
    "items run twice": broken(ThreadEngine, "execute", twice),
    "who waits for room is not told": broken(Looking, "_tell", nothing),
    "who waits for a result is not told": broken(Telling, "_announce", nothing),
    "nothing is overdue": broken(Ending, "_end_overdue", forgotten),
    "flush forces nothing": broken(Plain, "force", nothing),
    "no alarm for a linger": broken(ThreadEngine, "_set_alarm", nothing),
    "close leaves the workers": broken(ThreadEngine, "_end_workers", nothing),
    "other limits are not noticed": broken(ThreadEngine, "configured", nothing),
    "a fork leaves the counts": (Engine, "forked", lambda self: self._reset_workers()),
    "keys are mixed": (Routing, "_route", mixed),
    "only exceptions reach the callers": broken(Running, "_settle_part", only_exceptions),
}


# Too rare for random steps: a timeout matters only if no worker is awake to dispatch.
ALONE = [("one", {"bits": 0}), ("advance", {"seconds": 5.0})]
REPLAYS: dict[str, Any] = {
    "no alarm for a linger": (
        PLAIN | {"size": 3, "linger": 4.0},
        *ALONE,
        ("end_well", {"at": 0, "kind": "list"}),
        *ALONE,
    ),
}


def is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> bool:
    cls, method, wrong = BREAKS[name]
    monkeypatch.setattr(cls, method, wrong)
    try:
        if name in REPLAYS:
            model.replay(*REPLAYS[name])
        else:
            model.run(1000, 30, seed=1)
    except Exception:
        return True
    return False


@pytest.mark.parametrize("name", REPLAYS)
def test_a_replayed_plan_passes(name: str) -> None:
    model.replay(*REPLAYS[name])


@pytest.mark.parametrize("name", few(BREAKS))
def test_a_broken_engine_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert is_found(monkeypatch, name)
