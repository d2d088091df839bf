"""dloader: a data loader for asyncio with a shutdown method.

At the next tick of the loop a task takes `max_batch_size` (size) keys, and starts another task if
there are more. It merges equal pending keys even without a cache, so it can only be compared with
keys that differ.
"""

from __future__ import annotations

from importlib import metadata

from dloader import DataLoader

from .data_loader import DataLoaderRival


class DLoader(DataLoaderRival):
    name = "dloader"
    version = metadata.version("dloader")
    loader_type = DataLoader
    # Each batch copies the list of all waiting keys, which takes quadratic time.
    not_in = ("S7a",)

    async def aclose(self) -> None:
        await self.loader.shutdown()
        await super().aclose()
