"""The data loader of strawberry-graphql.

A call opens a batch, which is dispatched at the next tick of the loop or after `max_batch_size`
(size) calls. Each batch has a task.
"""

from __future__ import annotations

from importlib import metadata

from strawberry.dataloader import DataLoader

from .data_loader import DataLoaderRival


class Strawberry(DataLoaderRival):
    name = "strawberry"
    version = metadata.version("strawberry-graphql")
    loader_type = DataLoader
