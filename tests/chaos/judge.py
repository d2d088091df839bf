"""Compare the outcomes that were meant with those that were seen, and both with `stats()`."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from . import plan
from .outcomes import (
    CALLED,
    CANCELLED,
    CLOSED,
    DROPPED,
    ENDED,
    EXPIRED,
    FULL,
    MAY_CANCEL,
    MAY_CLOSE,
    MAY_EXPIRE,
    MAYBE,
    NEVER_RUN,
    NOTHING,
    OUTCOMES,
    REFUSED,
    SUBMITTED,
    SUCCESSES,
    TURNED_AWAY,
    UNKNOWN,
)
from .town import Target, Town
from .weather import check_balance


@dataclass
class Report:
    """The results of a run."""

    seed: int
    items: int = 0
    batches: int = 0
    seconds: float = 0.0
    lost: int = 0
    duplicated: int = 0
    hung: int = 0
    misrouted: int = 0
    broken: list[str] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    memory: str = ""

    @property
    def is_clean(self) -> bool:
        return not (self.lost or self.duplicated or self.hung or self.misrouted or self.broken)

    def __str__(self) -> str:
        def table(title: str, rows: Iterable[tuple[str, int]]) -> list[str]:
            return [title, *(f"  {name:<46}{count:>12,}" for name, count in rows), ""]

        lines = table("faults of batches", sorted(self.faults.items()))
        lines += table("what callers did", sorted(self.events.items()))
        if self.memory:
            lines += ["memory", f"  {self.memory}", ""]
        lines += table("how items ended", self.outcomes.most_common())
        if self.notes or self.broken:
            lines += table("what is wrong", self.notes.most_common(20))
            lines += [*self.broken[:10], ""]
        names = ("items", "batches", "lost", "duplicated", "hung", "misrouted")
        lines += table(
            f"seed {self.seed}, {self.seconds:.1f} s, Python {sys.version.split()[0]}",
            [*((name, getattr(self, name)) for name in names), ("broken", len(self.broken))],
        )
        return "\n".join(lines)


class Judge:
    """Compares meant and seen outcomes at the end of each epoch."""

    def __init__(self, town: Town, report: Report) -> None:
        self.town = town
        self.ledger = town.ledger
        self.report = report
        # By function and outcome, over all epochs.
        self.endings: Counter[tuple[int, int]] = Counter()
        # By function: items that may not have been submitted, and items that shared another's run.
        self.maybe: Counter[int] = Counter()
        self.shared: Counter[int] = Counter()

    def judge(self) -> None:
        """Check every item of this epoch."""
        ledger = self.ledger
        columns = (
            ledger.flags, ledger.runs, ledger.meant, ledger.seen, ledger.told, ledger.home
        )  # fmt: skip
        special = set()
        for facts, count in Counter(zip(*columns, strict=True)).items():
            flags, runs, meant, seen, told, home = facts
            if flags == SUBMITTED and seen == meant and runs == 1 and told <= 1:
                self.endings[home, seen] += count  # correct, like most items
            elif flags or runs:
                special.add(facts)
        for n, facts in enumerate(zip(*columns, strict=True)):
            if facts in special:
                if facts[0]:
                    self.judge_item(n)
                else:
                    self.blame(n, "duplicated")  # an item of an earlier epoch
        end = time.monotonic() + (plan.SETTLE if self.report.is_clean else 0)
        for target in self.town.all:
            if target.call is not None:
                self.judge_stats(target, end)
        self.report.items += ledger.handed

    def sum_up(self) -> None:
        """Complete the report after the last epoch."""
        ledger, report = self.ledger, self.report
        for (_, outcome), count in self.endings.items():
            report.outcomes[OUTCOMES[outcome]] += count
        report.misrouted += sum(ledger.misled.values())
        report.notes.update(ledger.misled)
        report.broken = list(ledger.broken)
        report.faults, report.events = ledger.faults, ledger.events
        report.batches = ledger.batches

    def judge_item(self, n: int) -> None:
        ledger = self.ledger
        flags, runs, seen, told = ledger.flags[n], ledger.runs[n], ledger.seen[n], ledger.told[n]
        home = ledger.home[n]
        final = seen
        if seen == NOTHING and flags & DROPPED:
            final = ledger.meant[n]
        self.endings[home, final] += 1
        target = self.town.all[home]
        if seen == NOTHING and flags & MAYBE:
            self.maybe[home] += 1
        if runs > 1 and runs <= target.most_runs:
            ledger.events["item run again by a policy"] += 1
        is_refused = flags & NEVER_RUN or seen in (REFUSED, FULL)
        is_refused = is_refused or (seen == EXPIRED and not target.is_retried)
        if runs > target.most_runs or told > 1 or (runs and is_refused):
            self.blame(n, "duplicated")
        elif flags & CALLED and not told and not flags & UNKNOWN:
            self.blame(n, "lost")
        elif seen == NOTHING:
            if flags & DROPPED:
                if not runs:
                    self.blame(n, "lost")
            elif not flags & UNKNOWN:
                self.blame(n, "hung")
        elif not self.is_as_meant(n, flags, runs, seen):
            self.blame(n, "misrouted")

    def is_as_meant(self, n: int, flags: int, runs: int, seen: int) -> bool:
        ledger = self.ledger
        if seen == CANCELLED:
            return bool(flags & MAY_CANCEL)
        if seen == CLOSED:
            if runs:
                ledger.events["item abandoned after its start"] += 1
            return bool(flags & MAY_CLOSE)
        if seen == EXPIRED:
            return bool(flags & MAY_EXPIRE)
        if seen in (REFUSED, FULL):
            return True
        if runs:
            return seen == ledger.meant[n]
        kin = [m for m in ledger.kin(n) if ledger.runs[m]]
        if kin:
            ledger.events["item that an equal one was run for"] += 1
            self.shared[ledger.home[n]] += 1
        return any(seen == ledger.meant[m] for m in kin)

    def blame(self, n: int, fault: str) -> None:
        ledger, report = self.ledger, self.report
        setattr(report, fault, getattr(report, fault) + 1)
        name = self.town.all[ledger.home[n]].name
        meant, seen = OUTCOMES[ledger.meant[n]], OUTCOMES[ledger.seen[n]]
        report.notes[
            f"{fault} in {name}: runs {ledger.runs[n]}, told {ledger.told[n]}, "
            f"meant {meant}, seen {seen}, flags {ledger.flags[n]:b}"
        ] += 1

    def judge_stats(self, target: Target, end: float) -> None:
        """Check that `stats()` agrees with the callers' counts once nothing runs."""
        while (wrong := self.wrong_facts(target)) and time.monotonic() < end:
            time.sleep(0.02)  # an observer may still be called
        if wrong:
            mine = self.endings_of(target)
            seen = {OUTCOMES[outcome]: count for outcome, count in mine.items()}
            s = target.call.stats()
            self.ledger.complain(f"{target.name}: {wrong} disagree: {s}, seen {seen}")

    def endings_of(self, target: Target) -> Counter[int]:
        mine: Counter[int] = Counter()
        for (index, outcome), count in self.endings.items():
            if index == target.index:
                mine[outcome] += count
        return mine

    def wrong_facts(self, target: Target) -> list[str]:
        mine = self.endings_of(target)
        s = check_balance(self.ledger, target)
        unknown = mine.pop(NOTHING, 0)
        maybe = self.maybe[target.index]
        succeeded = sum(count for outcome, count in mine.items() if outcome in SUCCESSES)
        cancelled, expired = mine[CANCELLED], mine[EXPIRED]
        turned_away = sum(mine[outcome] for outcome in TURNED_AWAY)
        failed = sum(mine.values()) - succeeded - cancelled - expired - turned_away
        gave_up = s.submitted - s.accepted - s.rejected
        # Items whose caller was gone when the batch ended, or whose loop ended before the batch.
        slack = unknown + cancelled + mine[CLOSED] + mine[ENDED]
        facts = {
            "submitted": 0 <= sum(mine.values()) + unknown - s.submitted <= maybe,
            "succeeded": 0 <= s.succeeded - succeeded <= unknown,
            "cancelled": 0 <= s.cancelled + gave_up - cancelled <= unknown,
            "expired": 0 <= s.expired - expired <= unknown,
            "failed": failed <= s.failed <= failed + mine[CLOSED] + unknown,
            "rejected": 0 <= s.failed + s.rejected - failed - turned_away <= unknown,
            "at rest": s.pending == s.running == 0,
            # With `isolate` an item runs more often than it is retried.
            "retried": target.is_isolated
            or 0 <= self.ledger.retries[target.index] - s.retried <= slack,
            "deduplicated": 0 <= s.deduplicated - self.shared[target.index] <= slack,
        }
        if not target.is_async and not target.flags & MAY_CLOSE:
            facts["observers"] = s.observer_errors == self.ledger.observed[target.name]
        return [fact for fact, holds in facts.items() if not holds]
