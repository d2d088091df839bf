"""All decorated functions of a run, and which calls each supports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from batchify import batched

from ..manual import batched_with
from .faults import (
    LIST_FAULTS,
    STREAM_FAULTS,
    Fault,
    as_list,
    as_mapping,
    as_script,
    run_async_batch,
    run_batch,
    stream_async,
    stream_batch,
)
from .ledger import Ledger, extra_salt
from .outcomes import MAY_CLOSE
from .policies import (
    Refuses,
    UneasySeam,
    as_retries,
    as_retry_script,
    deduped,
    isolated,
    keyed,
    rescue,
    retried,
    retries_unless_poisoned,
    unless_poisoned,
    weighed,
)

Policy = Callable[[Ledger, "Target"], dict[str, Any]]


@dataclass(eq=False)
class Target:
    """One decorated function."""

    index: int
    name: str
    size: int
    most: int = 2000  # items that one scene submits at once
    is_async: bool = False
    is_grouped: bool = False
    is_small: bool = False  # its capacity is small
    is_moody: bool = False  # its limits change while it runs
    is_ranked: bool = False  # its calls have deadlines and priorities
    is_uneasy: bool = False  # its threads may fail to start, and its clock jumps
    is_deduped: bool = False
    is_retried: bool = False
    is_isolated: bool = False
    most_runs: int = 1  # weight of one item
    refuses: Refuses | None = None  # which items are refused, and with which error
    checks: list[Callable[[list[int]], bool]] = field(default_factory=list)
    flags: int = 0
    faults: list[Fault] = field(default_factory=lambda: LIST_FAULTS)
    shape: Fault = as_list
    call: Any = None
    owner: Any = None  # makes the instance of a method
    number: int = 0  # options of the instance
    friend: Target | None = None  # the function to which its batches submit

    def now(self, n: int) -> Target:
        """Return the target for one scene: a method gets a new instance."""
        if self.owner is None:
            return self
        number = 1 + n % 65_000
        owned = replace(self, number=number, owner=None)
        owned.call = getattr(self.owner(number), self.name)
        return owned


class Town:
    """All decorated functions of a run."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.all: list[Target] = []
        self.seam = UneasySeam(ledger)
        self._functions()
        self._coroutines()
        self._methods()
        for target in self.all:
            target.friend = self["co" if target.is_async else "plain"]

    def _functions(self) -> None:
        self._def("plain")
        self._def("crowd", workers=3, size=32, linger=0.001)
        self._def("narrow", workers=2, size=4, capacity=8)
        self._def("slow_narrow", size=8, capacity=8, linger=0.002)
        self._def("doors", workers=2, size=32, linger=0.0005, is_door=True)
        self._def("narrow_doors", workers=2, size=8, capacity=16, is_door=True)
        self._def("by_hand", size=50, linger=None)
        self._def("mapping", workers=2, shape=as_mapping)
        self._def("rescued", workers=2, size=40, rescue=rescue)
        self._grouped("tables", workers=2)
        self._grouped("narrow_tables", size=4, capacity=12, linger=0.002)
        self._def("stream", workers=2, body=stream_batch)
        self._def("keyed", [keyed], workers=2, size=24)
        self._def("weighed", [weighed], workers=2, size=24, capacity=60, linger=0.001)
        self._def("deduped", [deduped], workers=2, linger=0.001)
        self._def("isolated", [isolated], workers=2, size=16, linger=0.001, shape=unless_poisoned)
        self._def("retried", [retried], workers=2, size=32, shape=as_retries)
        self._def("retried_doors", [retried], size=32, shape=as_retries, is_door=True)
        self._def("ranked", workers=2, size=16, linger=0.0005, is_ranked=True)
        self._def("moody", workers=2, size=48, capacity=200, is_moody=True)
        self._def("moody_keys", [keyed], size=48, capacity=200, is_moody=True, is_ranked=True)
        self._def("uneasy", workers=3, size=16, linger=0.001, is_door=True, is_uneasy=True)
        self._def(
            "everything", [keyed, weighed, isolated, retried], workers=2, size=16, capacity=100,
            linger=0.002, rescue=rescue, shape=retries_unless_poisoned, is_ranked=True,
        )  # fmt: skip

    def _coroutines(self) -> None:
        self._async("co")
        self._async("co_crowd", workers=3, size=16, linger=0.001)
        self._async("co_narrow", workers=2, size=4, capacity=8)
        self._async("co_doors", size=32, linger=0.0005, is_door=True)
        self._async("co_rescued", rescue=rescue, size=40)
        self._async("co_stream", workers=2, body=stream_async)
        self._async("co_keyed", [keyed, weighed], workers=2, size=24, is_ranked=True)
        self._async("co_deduped", [deduped], workers=2, rescue=rescue)
        self._async("co_isolated", [isolated], size=16, shape=unless_poisoned)
        self._async("co_retried", [retried], workers=2, shape=as_retries)
        self._async("co_again", [retried], body=stream_async, script=as_retry_script)
        self._async("co_moody", workers=2, size=48, capacity=200, is_moody=True)
        self._async("co_uneasy", size=16, linger=0.001, is_uneasy=True, is_ranked=True)

    def __getitem__(self, name: str) -> Target:
        return next(target for target in self.all if target.name == name)

    def _target(
        self,
        name: str,
        policies: list[Policy] = [],
        *,
        is_door: bool = False,
        shape: Fault = as_list,
        script: Fault = as_script,
        rescue: Any = None,
        body: Any = None,
        is_moody: bool = False,
        is_ranked: bool = False,
        is_uneasy: bool = False,
        **options: Any,
    ) -> tuple[Target, dict[str, Any]]:
        """Return a target without its call, and the options for it."""
        target = Target(len(self.all), name, options.get("size", 64), shape=shape)
        target.is_moody, target.is_ranked, target.is_uneasy = is_moody, is_ranked, is_uneasy
        if is_door:
            target.flags = MAY_CLOSE
        if options.get("capacity", 100) < 100:
            target.is_small, target.most = True, 60
        if body in (stream_batch, stream_async):
            target.shape, target.faults = script, STREAM_FAULTS
        if rescue is not None:
            options["on_error"] = partial(rescue, self.ledger, target)
        for policy in policies:
            options |= policy(self.ledger, target)
        self.all.append(target)
        self.ledger.targets.append(target)
        # Uneasy: the clock jumps, and that must not end an item.
        timeout = 1e9 if is_uneasy else 2
        return target, {"exit_timeout": timeout, "name": name, **options}

    def _call(self, target: Target, function: Any, options: dict[str, Any]) -> None:
        if target.is_uneasy:
            target.call = batched_with(self.seam, function, **options)
        else:
            target.call = batched(function, **options)

    def _def(
        self, name: str, policies: list[Policy] = [], body: Any = run_batch, **more: Any
    ) -> None:
        target, options = self._target(name, policies, body=body, **more)
        begin = self.ledger.begin

        def function(items: list[int]) -> Any:
            return body(begin(target, items))

        self._call(target, function, options)

    def _async(
        self, name: str, policies: list[Policy] = [], body: Any = run_async_batch, **more: Any
    ) -> None:
        target, options = self._target(name, policies, body=body, **more)
        target.is_async = True
        begin = self.ledger.begin

        async def function(items: list[int]) -> Any:
            return await body(begin(target, items))

        is_stream = body is stream_async
        self._call(target, body(partial(begin, target)) if is_stream else function, options)

    def _grouped(self, name: str, **more: Any) -> None:
        target, options = self._target(name, **more)
        target.is_grouped = True
        begin = self.ledger.begin

        def function(items: list[int], table: int, *, level: int) -> Any:
            return run_batch(begin(target, items, extra_salt(table, level)))

        target.call = batched(function, **options)

    def _methods(self) -> None:
        sell, sell_options = self._target("sell", workers=2, size=16)
        ship, ship_options = self._target("ship", size=16, capacity=40)
        ship.is_async = True
        begin = self.ledger.begin

        class Shop:
            def __init__(self, number: int) -> None:
                self.number = number

            @batched(**sell_options)
            def sell(self, items: list[int]) -> Any:
                return run_batch(begin(sell, items, self.number))

            @batched(**ship_options)
            async def ship(self, items: list[int]) -> Any:
                return await run_async_batch(begin(ship, items, self.number))

        sell.owner = ship.owner = Shop
