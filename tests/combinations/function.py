"""The batch function of a plan, decorated with its options."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from batchify import BatchFailure, Retry, batched
from tests.combinations.ledger import Call, ElementError, Item, Ledger, Poison
from tests.combinations.plan import ATTEMPTS, Plan


def make(plan: Plan, ledger: Ledger) -> Any:
    """Decorate the batch function of a plan; return a function that looks it up."""

    def pause(call: Call) -> float:
        return plan.pauses[call.number % len(plan.pauses)]

    def begin(items: list[Item], table: str) -> Call:
        call = ledger.begin(list(items), table)
        items.clear()  # the list is the function's own
        return call

    def element(call: Call, item: Item) -> Any:
        kind, *rest = call.meant[item.number]
        if kind == "retry":
            return Retry(after=0.002 if item.fate == "later" else 0.0, attempts=ATTEMPTS)
        return (
            ElementError(*rest) if kind == "element" else None if kind == "none" else (kind, *rest)
        )

    def fail(call: Call) -> None:
        if call.fault in ("poison", "abort", "interrupt"):
            kinds = {"poison": Poison, "abort": SystemExit, "interrupt": KeyboardInterrupt}
            raise kinds[call.fault](call.number)

    def give(call: Call) -> Any:
        fail(call)
        shape, items = ledger.shape(call), call.items
        if call.fault:
            return [None] * (len(items) - 1) if call.fault == "short" else "no results"
        if shape == "mapping":
            found = {item: element(call, item) for item in reversed(items)}
            return {item: v for item, v in found.items() if v != ("missing",)}
        if shape == "none":
            return None
        return (tuple if shape == "tuple" else list)(element(call, item) for item in items)

    def as_def(self: Any, items: list[Item], table: str = "") -> Any:
        call = begin(items, table)
        try:
            time.sleep(pause(call))
            return give(call)
        finally:
            ledger.leave()

    def as_generator(self: Any, items: list[Item], table: str = "") -> Iterator[Any]:
        call = begin(items, table)
        try:
            time.sleep(pause(call))
            for item in call.items[: call.cut if call.fault else None]:
                yield element(call, item)
            fail(call)
        finally:
            ledger.leave()

    async def as_async_def(self: Any, items: list[Item], table: str = "") -> Any:
        call = begin(items, table)
        try:
            await asyncio.sleep(pause(call))
            return give(call)
        except asyncio.CancelledError:
            ledger.interrupted(call)
            raise
        finally:
            ledger.leave()

    async def as_async_generator(
        self: Any, items: list[Item], table: str = ""
    ) -> AsyncIterator[Any]:
        call = begin(items, table)
        try:
            for item in call.items[: call.cut if call.fault else None]:
                await asyncio.sleep(pause(call))
                found = element(call, item)
                call.given += 1
                yield found
            fail(call)
        except asyncio.CancelledError:
            ledger.interrupted(call)
            raise
        finally:
            ledger.leave()

    function: Any = {
        "def": as_def,
        "generator": as_generator,
        "async def": as_async_def,
        "async generator": as_async_generator,
    }[plan.flavour]
    return decorate(plan, ledger, function)


def decorate(plan: Plan, ledger: Ledger, function: Any) -> Any:
    async def on_error(failure: BatchFailure) -> Any:
        return ledger.handle(failure)

    is_async = plan.flavour.startswith("async")
    options = dict(plan.options)
    if plan.keys:
        options["key"] = lambda item: item.key
    if plan.weights:
        options.update(weight=lambda item: item.weight, max_weight=plan.max_weight)
    if plan.dedupe:
        options["dedupe"] = True if plan.dedupe == "equal" else lambda item: item.twin
    if plan.on_error:
        options["on_error"] = on_error if is_async and len(plan.fates) % 2 else ledger.handle
    if not plan.has_table:
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())
        function.__signature__ = signature.replace(parameters=parameters[:2])
    if not plan.is_method:
        run = batched(functools.partial(function, None), **options)
        return lambda: run

    class Owner:
        run = batched(function, **options)

    owner = Owner()
    return lambda: owner.run
