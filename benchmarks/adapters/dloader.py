"""dloader: a data loader for asyncio that cleans up after itself.

A task at the next tick of the loop takes `max_batch_size` (size) keys, and starts the task for
the next batch if any are left. Equal keys that wait at the same time are merged into one, also
without a cache: it is to be compared with unequal ones only.
"""

from __future__ import annotations

from importlib import metadata

from dloader import DataLoader

from .data_loader import DataLoaderRival


class DLoader(DataLoaderRival):
    name = "dloader"
    version = metadata.version("dloader")
    loader_type = DataLoader
    # Each batch is cut off the front of the list of all waiting keys, which is copied: quadratic.
    not_in = ("S7a",)

    async def aclose(self) -> None:
        await self.loader.shutdown()
        await super().aclose()
