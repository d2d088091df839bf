"""Call a bulk API that has a byte limit, throttles, refuses single items, and is sometimes down.

An item that fails alone is one element of the results: an exception for its caller, or a `Retry`.
If a whole request fails, stamina repeats it under the decorator; after the last attempt `on_error`
writes the items to a spool.

Run it: `python examples/bulk_api.py` (needs stamina)
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

import stamina

from batchify import BatchEvent, BatchFailure, ItemTooHeavy, Retry, RetryExhausted, batched

MAX_BYTES = 2_000


@dataclass(frozen=True)
class Event:
    """An item to send."""

    tenant: str
    number: int
    text: str = ""

    def as_bytes(self) -> bytes:
        """Encode the event for the request."""
        return json.dumps([self.tenant, self.number, self.text]).encode()


class Server:
    """A stand-in for a bulk endpoint that fails in several ways."""

    def __init__(self) -> None:
        self.random = random.Random(2026)
        self.stored: dict[int, Event] = {}
        self.calls = 0

    def post(self, events: list[Event]) -> list[int]:
        """Return a status for each event; accepts one tenant per request, and a limited size."""
        self.calls += 1
        assert len({event.tenant for event in events}) == 1
        assert sum(len(event.as_bytes()) for event in events) <= MAX_BYTES
        if self.random.random() < 0.1:
            raise ConnectionError("down for a moment")
        return [self._status(event) for event in events]

    def _status(self, event: Event) -> int:
        if not event.text:
            return 400
        if event.text == "poison" or self.random.random() < 0.05:
            return 429
        self.stored[event.number] = event
        return 200


server = Server()
spool: list[Event] = []


def spool_items(failure: BatchFailure) -> list[str]:
    """Store the items of a failed request, so that no caller waits until the server is back."""
    spool.extend(failure.items)
    return ["spooled"] * len(failure.items)


@batched(
    size=500,
    linger=0.005,
    workers=2,
    key=lambda event: event.tenant,
    weight=lambda event: len(event.as_bytes()),
    max_weight=MAX_BYTES,
    on_error=spool_items,
)
@stamina.retry(on=ConnectionError, attempts=3, wait_initial=0.001, wait_max=0.01)
def send(events: list[Event]) -> list[str | Exception | Retry]:
    """Send one request; return an outcome for each event."""
    outcomes: dict[int, str | Exception | Retry] = {
        200: "stored",
        400: ValueError("an event needs a text"),
        429: Retry(after=0.005, attempts=4, cause=TimeoutError("429")),
    }
    return [outcomes[status] for status in server.post(events)]


def main() -> None:
    """Send 3000 events, two of which are bad."""
    events = [Event(f"tenant {n % 7}", n, f"text {n}") for n in range(3000)]
    events[10], events[20] = Event("tenant 0", 10), Event("tenant 0", 20, "poison")
    batches: list[BatchEvent] = []
    stop = send.observe(batches.append)
    outcomes = list(send.map(events, return_exceptions=True))
    stop()

    assert len(server.stored) + len(spool) + 2 == len(events)
    assert isinstance(outcomes[10], ValueError)
    assert isinstance(outcomes[20], (RetryExhausted, str))
    try:
        send(Event("tenant 0", -1, "x" * MAX_BYTES))
    except ItemTooHeavy as error:
        print("refused:", error)
    stats = send.stats()
    print(
        f"{stats.succeeded} sent in {server.calls} requests, {len(spool)} spooled, "
        f"{stats.retried} sent again, {stats.failed} failed"
    )
    print(f"{len(batches)} batches, {sum(batch.error is not None for batch in batches)} failed")
    print(stats.explain())


if __name__ == "__main__":
    main()
