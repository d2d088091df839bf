"""`python -m batchify`: the commands, and what they are given.

The parser knows the options only; what does the work is imported by the command that was chosen,
as it may need an extra.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ._version import __version__

PROG = "python -m batchify"
DEFAULT_SECONDS = 10.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: what stands after `python -m batchify`; by default the process's own.

    Returns:
        The exit status.
    """
    parser = make_parser()
    given = parser.parse_args(arguments)
    if given.command is None:
        parser.print_help()
        return 0
    try:
        return int(given.run(given))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="A function that takes a list becomes one that is called with one item.",
    )
    parser.add_argument("--version", action="version", version=f"batchify {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_demo(commands)
    return parser


# ---- demo ----


def _add_demo(commands: argparse._SubParsersAction[Any]) -> None:
    parser = commands.add_parser(
        "demo",
        help="what batching gains, and for whom not, on an SQLite file",
        description="Insert rows into an SQLite file, one call each and batched, from threads and "
        "from asyncio, and compare. It needs rich, which the extra `demo` brings.",
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "--seconds",
        type=seconds,
        default=DEFAULT_SECONDS,
        metavar="N",
        help="run for about N seconds in all (default: %(default)g)",
    )
    amount.add_argument(
        "--rows", type=rows, metavar="N", help="insert N rows for each line instead"
    )
    parser.add_argument(
        "--file",
        type=new_file,
        metavar="PATH",
        help="a new database file, which is kept (default: a temporary one, removed at the end)",
    )
    parser.set_defaults(run=_demo)


def _demo(given: argparse.Namespace) -> int:
    try:
        from .cli import demo
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        print(
            'The demo shows its table with rich: pip install "batchify-py[demo]"', file=sys.stderr
        )
        return 2
    return demo.run(seconds=given.seconds, rows=given.rows, file=given.file)


# ---- kinds of arguments; argparse calls a bad one by the function's name ----


def seconds(text: str) -> float:
    """A time that is not over at once, and that ends."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def rows(text: str) -> int:
    """A number of rows, at least one."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def new_file(text: str) -> Path:
    """The path of a file that can be made."""
    path = Path(text)
    if path.exists():
        raise argparse.ArgumentTypeError(f"{text} exists; the demo wants a file of its own")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is no directory")
    return path


if __name__ == "__main__":
    sys.exit(main())
