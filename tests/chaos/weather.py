"""Events around the callers: close and start, changed limits, clock jumps, observers."""

from __future__ import annotations

import contextlib
import gc
import random
import threading
import traceback
from collections.abc import Callable
from typing import Any

from batchify import observe

from ..limits import LIMIT
from .ledger import Ledger
from .outcomes import MAY_CLOSE
from .policies import Observer
from .stage import Stage
from .threads import close_somehow
from .town import Target, Town


class Weather:
    """Threads that flush and read the statistics, start and close, and change limits."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.ledger = town.ledger
        self.is_over = threading.Event()
        self.rng = random.Random(f"{self.ledger.seed} weather")
        self.threads = [
            threading.Thread(target=self.run, args=(play,), name=play.__name__, daemon=True)
            for play in (self.watch, self.doors, self.moods)
        ]
        self.ends: list[Callable[[], None]] = []

    def begin(self) -> None:
        self.ends.append(observe(Observer(self.ledger, 50)))
        for name in ("plain", "ranked", "keyed", "isolated", "co"):
            self.ends.append(self.town[name].call.observe(Observer(self.ledger, 7)))
        for thread in self.threads:
            thread.start()

    def run(self, play: Callable[[], None]) -> None:
        while not self.is_over.is_set():
            try:
                play()
            except BaseException:
                self.ledger.complain(traceback.format_exc())

    def watch(self) -> None:
        with contextlib.suppress(TimeoutError):
            self.town["by_hand"].call.flush(0.01)
        for target in self.rng.sample(self.town.all, 3):
            if target.call is not None:
                check_balance(self.ledger, target)
        if self.rng.random() < 0.02:
            gc.collect()
        self.is_over.wait(0.01)

    def doors(self) -> None:
        for target in self.town.all:
            if target.flags & MAY_CLOSE:
                close_somehow(Stage(self.ledger, self.rng, target, range(0), []))
                self.is_over.wait(self.rng.random() * 0.002)
                target.call.start()
        self.is_over.wait(0.02)

    def moods(self) -> None:
        """Change limits and the clock while functions run."""
        rng = self.rng
        for target in self.town.all:
            if not target.is_moody:
                continue
            call, option = target.call, rng.choice(("size", "linger", "workers", "capacity"))
            if option == "size":
                call.size = rng.randint(1, target.size)
            elif option == "linger":
                call.linger = rng.choice((0, 0.0005, 0.01, None))
            elif option == "workers":
                call.workers = rng.randint(1, 4)
            else:
                call.capacity = rng.choice((target.size, 60, 200, None))
            self.ledger.count(self.ledger.events, f"other {option} while it runs")
            if call.linger is None:
                with contextlib.suppress(TimeoutError):
                    call.flush(0.01)
        if rng.random() < 0.05:
            self.town.seam.jump(rng.choice((0.001, 0.1, 3, 1000)))
        self.is_over.wait(0.02)

    def end(self) -> None:
        self.is_over.set()
        for thread in self.threads:
            thread.join(LIMIT)
            if thread.is_alive():
                self.ledger.complain(f"the weather ({thread.name}) hangs")
        for end in self.ends:
            end()
        for target in self.town.all:
            if target.flags & MAY_CLOSE:
                target.call.start()
            if target.is_moody:
                target.call.linger = 0


def check_balance(ledger: Ledger, target: Target) -> Any:
    """Check what `stats()` promises at any time."""
    s = target.call.stats()
    ended = s.succeeded + s.failed + s.cancelled + s.expired
    if s.accepted != ended + s.pending + s.running or s.submitted < s.accepted + s.rejected:
        ledger.complain(f"{target.name}: unbalanced {s}")
    capacity = target.call.capacity
    if target.is_moody:
        return s
    if not target.is_async and capacity is not None and s.pending + s.running > capacity:
        ledger.complain(f"{target.name}: over its capacity {s}")
    return s
