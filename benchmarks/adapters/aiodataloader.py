"""aiodataloader: the data loader of GraphQL, for asyncio.

The calls of a tick are cut into batches of `max_batch_size` (size), which all start at once, in a
task each.
"""

from __future__ import annotations

from importlib import metadata

from aiodataloader import DataLoader

from .data_loader import DataLoaderRival


class AioDataLoader(DataLoaderRival):
    name = "aiodataloader"
    version = metadata.version("aiodataloader")
    loader_type = DataLoader
