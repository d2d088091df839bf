"""The data loader of strawberry-graphql.

A call opens a batch that leaves at the next tick of the loop, or takes the next `max_batch_size`
(size) calls; each batch has a task.
"""

from __future__ import annotations

from importlib import metadata

from strawberry.dataloader import DataLoader

from .data_loader import DataLoaderRival


class Strawberry(DataLoaderRival):
    name = "strawberry"
    version = metadata.version("strawberry-graphql")
    loader_type = DataLoader
