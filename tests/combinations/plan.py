"""The plan of a run: it determines everything except the timing of threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

ATTEMPTS = 3  # of each Retry
NEVER = 3600.0  # seconds: a deadline that does not come
# The fates of items. The first item of a batch whose fate is in FAULTY makes the batch fail.
DIVISIBLE = ("poison", "abort")  # raises an Exception, or SystemExit
INDIVISIBLE = ("interrupt", "short", "odd")  # KeyboardInterrupt, one result too few, no results
FAULTY = DIVISIBLE + INDIVISIBLE
HARMLESS = ("value", "element", "missing", "again", "later", "hopeless")


@dataclass(frozen=True)
class Actor:
    """A thread, or an event loop in a thread, and its steps."""

    kind: str
    steps: tuple[tuple[Any, ...], ...]
    leaves: bool  # a loop ends without waiting for its futures


@dataclass(frozen=True)
class Round:
    """Actors at work, until the end; `is_patient`: the end comes when they are through."""

    actors: tuple[Actor, ...]
    changes: tuple[tuple[str, Any], ...]
    is_patient: bool
    end: str


@dataclass(frozen=True)
class Plan:
    """One example."""

    flavour: str
    is_method: bool
    has_table: bool  # an extra argument
    options: dict[str, Any]
    keys: int
    weights: tuple[float, ...]
    max_weight: float
    dedupe: str
    twins: int
    on_error: str
    fates: tuple[str, ...]
    shapes: tuple[str, ...]
    pauses: tuple[float, ...]
    rounds: tuple[Round, ...]

    def of(self, option: str) -> list[Any]:
        """Return every value that an option ever gets."""
        changes = [change for one in self.rounds for change in one.changes]
        return [self.options[option], *(value for name, value in changes if name == option)]


def some(*values: Any) -> Any:
    return st.sampled_from(values)


def few(values: Any, most: int, least: int = 1) -> Any:
    return st.lists(values, min_size=least, max_size=most).map(tuple)


LINGERS = some(0.0, 0.0, 0.004, None)
COUNTS = some(1, 1, 2, 3, 6)
STEPS = st.one_of(
    st.tuples(st.just("call"), COUNTS),
    st.tuples(st.just("nowait"), COUNTS),
    st.tuples(st.just("deadline"), COUNTS, some(0.0, 0.003, NEVER)),
    st.tuples(st.just("priority"), COUNTS, some(-1, 1, 5)),
    st.tuples(st.just("timeout"), COUNTS, some(0.0, 0.003, 5.0)),
    st.tuples(st.just("asubmit"), COUNTS),
    st.tuples(st.just("task"), COUNTS, some(0.0, 0.002, NEVER)),
    st.tuples(st.just("map"), some(1, 4, 9), some(None, 1, 3), st.booleans(), st.booleans()),
    st.tuples(st.just("leave map"), some(4, 9), some(None, 2)),
    st.tuples(st.just("cancel"), COUNTS),
    st.tuples(st.just("wait"), COUNTS),
    st.tuples(st.just("sleep"), some(0.0, 0.002)),
    st.tuples(st.just("flush")),
)
ACTORS = st.builds(Actor, some("thread", "thread", "loop"), few(STEPS, 8), st.booleans())
CHANGES = st.one_of(
    st.tuples(st.just("size"), some(1, 2, 4, 7)),
    st.tuples(st.just("linger"), LINGERS),
    st.tuples(st.just("workers"), some(1, 2, 4)),
    st.tuples(st.just("capacity"), some(None, 4, 7, 12)),
)
ROUNDS = st.builds(
    Round, few(ACTORS, 3), few(CHANGES, 3, 0), st.booleans(),
    some("rest", "close", "cancel", "aclose", "acancel"),
)  # fmt: skip
PLANS = st.builds(
    Plan,
    flavour=some("def", "def", "generator", "async def", "async generator"),
    is_method=st.booleans(),
    has_table=st.booleans(),
    options=st.fixed_dictionaries(
        {
            "size": some(1, 2, 3, 4, 8),
            "linger": LINGERS,
            "workers": some(1, 1, 2, 3),
            "capacity": some(None, 8, 10, 10_000),
            "isolate": st.booleans(),
        }
    ),
    keys=some(0, 0, 2, 3),
    weights=st.one_of(st.just(()), few(some(0, 0.1, 0.2, 0.3, 0.7, 1, 9), 4)),
    max_weight=some(1, 0.7),
    dedupe=some("", "", "equal", "function"),
    twins=some(1, 2, 5),
    on_error=some("", "", "pass", "replace", "raise", "short", "again"),
    fates=few(st.one_of(st.just("value"), some(*HARMLESS), some(*HARMLESS, *FAULTY)), 6),
    shapes=few(some("list", "list", "tuple", "mapping", "none"), 3),
    pauses=few(some(0.0, 0.0, 0.001, 0.003), 3),
    rounds=few(ROUNDS, 2),
)
