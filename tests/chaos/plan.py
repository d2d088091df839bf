"""The sizes of a run."""

from ..limits import LIMIT

STALL = 0.002  # seconds
LONG_STALL = 0.05
HANG = 1.0
SETTLE = LIMIT  # until the last observer was called, and the last worker has ended
FAULTY = 80  # batches in 1000 that have a fault
PAUSED = 40  # batches in 1000 that stall
ITEMS_PER_HANG = 40_000
ITEMS_PER_FORK = 200_000
ITEMS_PER_STORM = 20_000  # between signals
EPOCH = 500_000  # items per epoch: the size of the ledger
