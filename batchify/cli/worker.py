"""`python -m batchify worker app:insert`: run what callers anywhere have sent."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Any

from ..worker import Worker
from .target import Unfit, found


def run(target: str, *, workers: int | None) -> int:
    """Run until SIGTERM or SIGINT; a second one ends the process at once.

    Returns:
        The exit status: 0 when nothing was left undone.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        worker = Worker(found(target), workers)
    except (Unfit, TypeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2

    def stop(*_: Any) -> None:
        if worker.is_stopping:
            os._exit(130)  # what it had is delivered again
        worker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    print(f"worker of {target}: ready", file=sys.stderr, flush=True)
    return 0 if worker.run() else 1
