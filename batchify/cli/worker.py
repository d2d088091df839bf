"""`python -m batchify worker app:insert`: run the items that callers sent to a broker."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Any

from ..worker import Worker
from .target import CommandError, describe, load, print_mistake


def run(target: str, *, workers: int | None, log_level: str) -> int:
    """Run until SIGTERM or SIGINT; a second signal ends the process at once.

    Args:
        target: the function, as "module:function".
        workers: maximum number of batches that run at the same time; None: the function's own.
        log_level: the level of the root logger, such as "info".

    Returns:
        The exit status: 0 if nothing was left undone, 1 if items are left or the broker refuses the
        connection, 2 after a mistake of the user.
    """
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
        level=log_level.upper(),
    )
    try:
        function = load(target)
        worker = Worker(function, workers)
    except (CommandError, TypeError, ValueError) as error:
        return print_mistake(target, error)

    def stop(*_: Any) -> None:
        if worker.is_stopping:
            os._exit(130)  # the broker delivers the items in hand again
        worker.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        return 0 if worker.run() else 1
    except Exception as error:
        if worker.is_ready:
            raise
        print(f"{target}: the broker refuses the connection: {describe(error)}", file=sys.stderr)
        return 1
