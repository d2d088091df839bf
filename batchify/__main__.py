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
DEFAULT_SECONDS = 12.0


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
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands")
    _add_demo(commands)
    return parser


# ---- demo ----


def _add_demo(commands: argparse._SubParsersAction[Any]) -> None:
    parser = commands.add_parser(
        "demo",
        help="what batching gains, and for whom not, on an SQLite file",
        description="Insert rows into an SQLite file, one call each and batched, from threads and "
        "from asyncio, and compare. It needs the extra: pip install 'batchify-py[demo]'.",
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "--seconds",
        type=_positive_seconds,
        default=DEFAULT_SECONDS,
        metavar="N",
        help="run for about N seconds in all (default: %(default)g)",
    )
    amount.add_argument(
        "--rows", type=_positive_count, metavar="N", help="insert N rows for each line instead"
    )
    parser.add_argument(
        "--file",
        type=_new_file,
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


# ---- kinds of arguments ----


def _positive_seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError("must be more than 0")
    return seconds


def _positive_count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return count


def _new_file(text: str) -> Path:
    path = Path(text)
    if path.exists():
        raise argparse.ArgumentTypeError(f"{text} exists; the demo wants a file of its own")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is no directory")
    return path


# argparse says "invalid int value" with the name of the function.
_positive_seconds.__name__ = "number"
_positive_count.__name__ = "int"


if __name__ == "__main__":
    sys.exit(main())
