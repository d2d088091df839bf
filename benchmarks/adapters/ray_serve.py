"""Ray Serve: `@serve.batch`, for asyncio, without a cluster.

The decorator needs only the context of a replica, which this adapter sets; no process and no thread
is started. One task fills a batch from an `asyncio.Queue`; each batch has two tasks and some
metrics. size is its `max_batch_size`, linger its `batch_wait_timeout_s`, workers its
`max_concurrent_batches`; but it forms further batches while all of these are busy. The queue has no
limit. A call is a coroutine. It takes an `async def` only, and its task ends with the loop.

Ray and its dependencies take 500 MB, and three seconds to import: see requirements-large.txt.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from ray import serve
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve._private.config import DeploymentConfig
from ray.serve.context import _get_internal_replica_context, _set_internal_replica_context
from ray.serve.schema import ReplicaRank

from .base import ASYNCIO, Rival


class RayServe(Rival):
    name = "ray.serve.batch"
    modes = (ASYNCIO,)
    version = metadata.version("ray")

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        enter_replica()
        self.acall = serve.batch(
            max_batch_size=size, batch_wait_timeout_s=linger, max_concurrent_batches=workers
        )(function)


def enter_replica() -> None:
    """Set the context of a replica in this process."""
    if _get_internal_replica_context() is None:
        _set_internal_replica_context(
            replica_id=ReplicaID("benchmark", DeploymentID(name="benchmark")),
            servable_object=None,
            # It warns if this is less than the items of its concurrent batches.
            _deployment_config=DeploymentConfig(max_ongoing_requests=10**6),
            rank=ReplicaRank(rank=0, node_rank=0, local_rank=0),
            world_size=1,
        )
