"""How groups are mended, after an exception from a signal handler broke into a change."""

from __future__ import annotations

from collections import OrderedDict
from operator import itemgetter
from typing import Any

from ..future import Done
from .base import Forming
from .ranking import Ranking
from .states import Delayed, Group


class Recounting(Forming):
    """What a `Grouped` forming has, made anew from the states of its entries."""

    by_kin: dict[Any, Group]
    _lingering: Ranking[Group]
    _ready: Ranking[Group]
    _ready_by_age: Ranking[Group]
    _delayed: Ranking[Any]
    _deadlines: Ranking[Any]

    def _rate(self, group: Group) -> None:
        raise NotImplementedError

    def _rank_all(self, group: Group) -> None:
        raise NotImplementedError

    def _recount_moved(self) -> None:
        # What is made anew takes its place by one store: another exception loses nothing.
        delayed: Ranking[Any] = Ranking()
        for when, entry in self._delayed.ranked():
            if entry._s.__class__ is Delayed:
                entry._s.mark = delayed.put(when, entry)
        self._delayed = delayed
        deadlines: Ranking[Any] = Ranking()
        minded = dict.fromkeys([*self.minded, *self._deadlines.things()], 0)
        for entry in list(minded):
            if _is_elsewhere(entry):
                del minded[entry]
            else:
                minded[entry] = deadlines.put(entry._terms.deadline, entry)
        self._deadlines, self.minded = deadlines, minded
        self._lingering.clear()
        self._ready.clear()
        self._ready_by_age.clear()
        groups = list(self.by_kin.values())
        for group in groups:
            self._recount_group(group)
        self.grouped = sum(len(group.entries) for group in groups) + len(self._delayed)
        for group in groups:
            self._rate(group)

    def _recount_group(self, group: Group) -> None:
        live = [
            (number, entry)
            for entry, number in group.entries.items()
            if not _is_elsewhere(entry) and entry._s.__class__ is not Delayed
        ]
        live.sort(key=itemgetter(0))
        group.entries = OrderedDict((entry, number) for number, entry in live)
        for entry in group.entries:
            if entry._s.__class__ is not Done:
                entry._s = group
        group.is_ready = False
        group.mark = group.mark_by_age = 0
        group.weight = sum(entry._terms.weight for _, entry in live)
        group.forced = sum(number <= group.boundary for number, _ in live)
        self._rank_all(group)


def _is_elsewhere(entry: Any) -> bool:
    """Does `entry`, which a group still has, belong to a batch by now, or to nobody?"""
    state = entry._s
    return state.__class__ is Done or state.is_running
