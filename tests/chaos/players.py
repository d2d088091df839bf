"""Run the scenes: in threads, and on one event loop after another."""

from __future__ import annotations

import asyncio
import random
import threading
import traceback
from collections.abc import Callable
from typing import Any

from .loops import gathered, left_behind
from .outcomes import MAY_CLOSE
from .stage import Pairs, Scene, Stage
from .town import Town


class Player:
    """A thread that runs scenes while there are items."""

    def __init__(self, town: Town, name: str, scenes: list[Scene]) -> None:
        self.town = town
        self.ledger = town.ledger
        self.rng = random.Random(f"{self.ledger.seed} {name}")
        self.casts = [
            (scene, [target for target in town.all if scene.fits(target)]) for scene in scenes
        ]
        self.weights = [scene.weight for scene in scenes]
        self.thread = threading.Thread(target=self.run, name=name, daemon=True)

    def run(self) -> None:
        try:
            self.play()
        except BaseException:
            self.ledger.complain(traceback.format_exc())

    def play(self) -> None:
        raise NotImplementedError

    def stage(self, later: Pairs) -> tuple[Callable[[Stage], Any], Stage] | None:
        """Return the next scene, or None if there are no more items."""
        ((scene, cast),) = self.rng.choices(self.casts, self.weights)
        target = self.rng.choice(cast)
        most = min(scene.items[1], target.most)
        ids = self.ledger.take(self.rng.randint(min(scene.items[0], most), most))
        if not ids:
            return None
        return scene.play, Stage(self.ledger, self.rng, target.now(ids[0]), ids, later)


class ThreadPlayer(Player):
    def play(self) -> None:
        later: Pairs = []
        while (next_ := self.stage(later)) is not None:
            play, stage = next_
            play(stage)
            del play, stage, next_  # an instance is freed here
            self.ledger.collect(later, self.ledger.patience)
            later.clear()


class LoopPlayer(Player):
    """Runs scenes on one event loop after another."""

    def play(self) -> None:
        while self.ledger.handed < self.ledger.items and not self.ledger.is_over:
            later: Pairs = []
            style = self.rng.choice((self.run_to_the_end, self.run_to_the_end, self.just_close))
            style(later)
            self.look_back(later)

    def run_to_the_end(self, later: Pairs) -> None:
        asyncio.run(self.life(later))
        self.ledger.count(self.ledger.events, "asyncio.run that ends")

    def just_close(self, later: Pairs) -> None:
        loop = asyncio.new_event_loop()
        self.ledger.doomed.add(loop)
        try:
            loop.run_until_complete(self.life(later))
        finally:
            for n, _ in later:
                self.ledger.flags[n] |= MAY_CLOSE
            loop.close()
        self.ledger.count(self.ledger.events, "loop.close")

    async def life(self, later: Pairs) -> None:
        await asyncio.gather(*(self.act(later) for _ in range(3)))
        for _ in range(self.rng.randrange(3)):  # some still run when the loop ends
            if (next_ := self.stage(later)) is not None:
                _, stage = next_
                stage.ids, spare = stage.ids[:40], stage.ids[40:]
                await left_behind(stage)
                stage.ids = spare
                await gathered(stage)

    async def act(self, later: Pairs) -> None:
        for _ in range(self.rng.randint(1, 6)):
            if (next_ := self.stage(later)) is None:
                return
            play, stage = next_
            await play(stage)
            del play, stage, next_

    def look_back(self, later: Pairs) -> None:
        """Check the items after the loop: those left run in threads, or have ended."""
        for n, future in later:
            is_async = self.town.all[self.ledger.home[n]].is_async
            if not is_async:
                self.ledger.collect([(n, future)], self.ledger.patience)
            elif future.done():
                self.ledger.look(n, future)
