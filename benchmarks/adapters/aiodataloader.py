"""aiodataloader: a GraphQL data loader for asyncio.

It splits the calls of one tick into batches of `max_batch_size` (size), and starts all of them at
once, in one task each.
"""

from __future__ import annotations

from importlib import metadata

from aiodataloader import DataLoader

from .data_loader import DataLoaderRival


class AioDataLoader(DataLoaderRival):
    name = "aiodataloader"
    version = metadata.version("aiodataloader")
    loader_type = DataLoader
