"""A proxy that delays the traffic to a Unix socket; each direction takes half of the delay.

It runs in a process of its own, so that it uses no time of its client's interpreter.
"""

from __future__ import annotations

import asyncio
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def delayed(path: Path, delay: float) -> Iterator[int]:
    """Yield a port that leads to the socket `path`; a round trip takes `delay` more seconds."""
    command = [sys.executable, __file__, str(path), str(delay)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.terminate()


async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    """Write everything that is read `delay` seconds later, with any number of pieces in flight."""
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def deliver() -> None:
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(due - time.monotonic())
            writer.write(piece)
            if not piece:
                return

    delivery = asyncio.create_task(deliver())
    try:
        while piece := await reader.read(1 << 16):
            pieces.put_nowait((time.monotonic() + delay, piece))
    finally:
        pieces.put_nowait((0.0, b""))
        await delivery
        writer.close()


async def serve(path: str, delay: float) -> None:
    """Print the port, then forward connections until the process is ended."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(path)
        await asyncio.gather(
            forward(reader, far_writer, delay / 2), forward(far_reader, writer, delay / 2)
        )

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    # epoll waits for whole milliseconds only; select is precise to microseconds.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    loop.run_until_complete(serve(sys.argv[1], float(sys.argv[2])))
