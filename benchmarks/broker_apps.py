"""Define one function for both brokers, for `benchmarks.brokers` and its worker processes."""

from __future__ import annotations

import os
from typing import Any

URL = os.environ.get("BATCHIFY_BENCHMARK_REDIS", "redis://127.0.0.1:1/0")
SIZE, LINGER = 500, 0.02

try:
    from batchify import batched
    from batchify.redis import RedisStreams

    @batched(size=SIZE, linger=LINGER, broker=RedisStreams(URL))
    def double(rows: list[int]) -> list[int]:
        return [2 * row for row in rows]

except ModuleNotFoundError as missing:
    if missing.name != "redis":
        raise

try:
    from celery import Celery
    from celery_batches import Batches

    celery = Celery("broker_apps", broker=URL, backend=URL)
    celery.conf.update(
        worker_prefetch_multiplier=2 * SIZE,  # with less, a worker never gets a full batch
        task_acks_late=True,
        broker_connection_retry_on_startup=True,
        worker_hijack_root_logger=False,
    )

    @celery.task(base=Batches, flush_every=SIZE, flush_interval=LINGER)
    def double_by_celery(requests: list[Any]) -> None:
        for request in requests:
            celery.backend.mark_as_done(request.id, 2 * request.args[0], request=request)

except ModuleNotFoundError as missing:
    if missing.name not in ("celery", "celery_batches"):
        raise
