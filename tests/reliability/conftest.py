"""Start a Redis server for the tests of the broker here, as for those in `tests/remote`."""

from __future__ import annotations

from tests.remote.conftest import broker, server

__all__ = ["broker", "server"]
