"""Turn what the batch function returned or raised into one outcome for each item.

The package is pure: `execute` is a generator that tells its driver which function to call and which
items to settle. It starts no thread and takes no lock.
Callers are the engines: worker threads call the functions, an event loop also awaits them.

Nearly every batch returns a list of results. The engines therefore make the first call themselves
(`make_call`) and settle such a list (`is_simple`) without the generator. That saves about 14
thousand instructions per batch.
"""

from __future__ import annotations

from .attempt import make_call
from .copies import copy_of
from .exceptions import retry_exhausted, to_raised
from .execution import execute, execute_rest
from .protocol import BatchFailure, BatchSpec, Call, Execution, Raised, Settle
from .values import is_simple

__all__ = [
    "BatchFailure",
    "BatchSpec",
    "Call",
    "Execution",
    "Raised",
    "Settle",
    "copy_of",
    "execute",
    "execute_rest",
    "is_simple",
    "make_call",
    "retry_exhausted",
    "to_raised",
]
