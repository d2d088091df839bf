"""A seeded chaos run: faults everywhere, and a ledger that knows what every item should get.

    python -m tests.chaos [--items 1000000] [--seed N]
    python -m tests.chaos --minutes 60

Threads and event loops submit to the same decorated functions, which have every policy there is.
Their batches raise, stall, hang and give back nonsense; the callers cancel, lose patience, close
loops and functions, and leave; limits change, threads are refused, the clock jumps, signals hit,
the process forks. Every item is a number of its own. The batch functions write down how often
each was run and which outcome it was *meant* to get, the callers which one they got. At the end
of each epoch (half a million items) both must agree:

- lost: it was never run, and nobody was told why; or its callback was never called
- duplicated: run too often, told twice, or run although it was cancelled, refused or expired
- hung: its future never ended
- misrouted: it ended otherwise than meant, changed its mind, or came to the wrong function
- broken: `stats()` disagrees, a bound is exceeded, a call failed that must not, a worker died,
  a finalizer raised, a forked child was not fresh

The same seed draws the same faults for the same items; the threads add their own weather.

outcomes ─ plan ─ faults ─ ledger ─ policies ─ town ─ stage ─ threads, loops ─ players ─ weather,
process ─ judge ─ run: each knows those before it.
"""

from .judge import Report
from .run import run_chaos

__all__ = ["Report", "run_chaos"]
