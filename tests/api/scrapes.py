"""A registry of Prometheus, for the tests of `batchify.prometheus`."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchify import batched

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, generate_latest

ROOT = Path(__file__).parent.parent.parent
DASHBOARD = ROOT / "docs" / "grafana.json"


class Scraped:
    """A separate registry, as Prometheus sees it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

    def text(self) -> str:
        return generate_latest(self.registry).decode()

    def values(self, name: str, function: str) -> dict[str, float]:
        """Return the samples of a metric for one function, by their other label."""
        found = {}
        for family in self.registry.collect():
            for sample in family.samples:
                labels = dict(sample.labels)
                if sample.name == name and labels.pop("function", "") == function:
                    found["".join(labels.values())] = sample.value
        return found

    def value(self, name: str, function: str) -> float:
        return self.values(name, function)[""]


class Short:
    @batched(name="short")
    def f(self, items: list[int]) -> list[int]:
        return items
