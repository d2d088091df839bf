"""A seeded chaos run: faults everywhere, and a ledger that knows what every item should get.

    python -m tests.chaos [--items 1000000] [--seed N]
    python -m tests.chaos --minutes 60

Threads and event loops submit items to the same decorated functions, which use every policy. Their
batches raise, stall, hang and return nonsense. Callers cancel, give up waiting, and close loops and
functions. Limits change, threads cannot start, the clock jumps, signals arrive, the process forks.
Every item is a unique number. The batch functions record how often each item ran and which outcome
it was *meant* to get; the callers record which outcome they got. At the end of each epoch (half a
million items) both records must agree. The run reports items that were

- lost: never run, and no caller got an error; or a callback was never called
- duplicated: run too often, settled twice, or run although cancelled, refused or expired
- hung: the future never ended
- misrouted: the outcome was not the one meant, changed later, or came from the wrong function
- broken: `stats()` disagrees, a limit was exceeded, a call failed that must not, a worker died,
  a finalizer raised, or a forked child did not start fresh

The same seed draws the same faults for the same items; only the timing of threads differs.

The modules depend on each other in this order: outcomes, plan, faults, ledger, policies, town,
stage, threads, loops, players, weather, process, judge, run.
"""

from .judge import Report
from .run import run_chaos

__all__ = ["Report", "run_chaos"]
