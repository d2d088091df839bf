"""`python -m batchify`: the parser of the commands and their options.

It imports the module of a command only when the command runs, because that may need an extra.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ._version import __version__

PROG = "python -m batchify"
DEFAULT_SECONDS = 10.0
BROKEN_PIPE = 141  # the status of a program that SIGPIPE ended, as shells report it
LOG_LEVELS = ("debug", "info", "warning", "error")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after `python -m batchify`; by default those of the process.

    Returns:
        The exit status.
    """
    parser = make_parser()
    given = parser.parse_args(arguments)
    if given.command is None:
        parser.print_help()
        return 0
    try:
        status = int(given.run(given))
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # such as `dead app:insert | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return BROKEN_PIPE
    return status


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="batchify turns a function that takes a list into one that you call per item.",
    )
    parser.add_argument("--version", action="version", version=f"batchify {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    _add_demo(commands)
    _add_tune(commands)
    _add_worker(commands)
    _add_dead(commands)
    return parser


# ---- demo ----


def _add_demo(commands: argparse._SubParsersAction[Any]) -> None:
    parser = commands.add_parser(
        "demo",
        help="measure what batching gains for SQLite inserts, with the case where it does not help",
        description="Insert rows into an SQLite file with one call per row and batched, from "
        "threads and from asyncio, and compare. Needs rich, which is in the extra `demo`.",
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "--seconds",
        type=seconds,
        default=DEFAULT_SECONDS,
        metavar="N",
        help="run for about N seconds in total (default: %(default)g)",
    )
    amount.add_argument(
        "--rows", type=rows, metavar="N", help="insert N rows per line of the table instead"
    )
    parser.add_argument(
        "--file",
        type=new_file,
        metavar="PATH",
        help="create the database here and keep it (default: a temporary file)",
    )
    parser.set_defaults(run=_demo)


def _demo(given: argparse.Namespace) -> int:
    demo = _import_with_rich("demo")
    if demo is None:
        return 2
    return int(demo.run(seconds=given.seconds, rows=given.rows, file=given.file))


def _import_with_rich(command: str) -> Any:
    """Return the module of a command that needs rich; without rich, print what to install."""
    try:
        return importlib.import_module(f".cli.{command}", __package__)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        print(
            f'{command} needs rich for its table: pip install "batchify-py[{command}]"',
            file=sys.stderr,
        )
        return None


# ---- tune ----


def _add_tune(commands: argparse._SubParsersAction[Any]) -> None:
    parser = commands.add_parser(
        "tune",
        help="measure a function and recommend size, linger and workers, or no batching",
        description="Call a function, for real, with lists of 1, 2, 4, ... items, fit "
        "`time = fixed + per_item * n`, and recommend options. Needs rich, and matplotlib for "
        "--plot; both are in the extra `tune`.",
    )
    parser.add_argument(
        "target",
        metavar="MODULE:FUNCTION",
        help="the function that takes a list, decorated or not; tune really calls it",
    )
    parser.add_argument(
        "--items",
        metavar="SOURCE",
        help="a file with one JSON value per line, or MODULE:FUNCTION, a function that takes a "
        "number and returns an item (default: the items are 0, 1, 2, ...)",
    )
    parser.add_argument(
        "--most",
        type=number,
        default=1024,
        metavar="N",
        help="the largest number of items in a call (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=seconds,
        default=DEFAULT_SECONDS,
        metavar="N",
        help="measure for about N seconds (default: %(default)g)",
    )
    load = parser.add_mutually_exclusive_group()
    load.add_argument(
        "--rate",
        type=rate,
        metavar="N",
        help="N items arrive per second: predict batch size and latency for several lingers, and "
        "recommend a number of workers",
    )
    load.add_argument(
        "--callers",
        type=number,
        metavar="N",
        help="N callers each wait for a result before their next call: recommend size and linger "
        "for them",
    )
    parser.add_argument(
        "--plot", type=picture, metavar="PATH", help="draw gain and latency: .svg or .png"
    )
    parser.set_defaults(run=_tune)


def _tune(given: argparse.Namespace) -> int:
    tune = _import_with_rich("tune")
    if tune is None:
        return 2
    return int(
        tune.run(
            given.target,
            items=given.items,
            most=given.most,
            seconds=given.seconds,
            rate=given.rate,
            callers=given.callers,
            plot=given.plot,
        )
    )


# ---- worker, dead ----


def _add_worker(commands: argparse._SubParsersAction[Any]) -> None:
    parser = commands.add_parser(
        "worker",
        help="run the items that callers sent to a function's broker",
        description="Run the items that callers sent to a function's broker, until SIGTERM or "
        "SIGINT; then finish the items in hand and exit. Start as many workers as you want, on "
        "any machine.",
    )
    _add_target(parser)
    parser.add_argument(
        "--workers",
        type=number,
        metavar="N",
        help="maximum number of batches that run at the same time in this process (default: the "
        "function's option)",
    )
    parser.add_argument(
        "--log-level",
        choices=LOG_LEVELS,
        default="info",
        metavar="LEVEL",
        help=f"the least serious messages to show: {', '.join(LOG_LEVELS)} (default: %(default)s)",
    )
    parser.set_defaults(run=_worker)


def _worker(given: argparse.Namespace) -> int:
    from .cli import worker

    return worker.run(given.target, workers=given.workers, log_level=given.log_level)


def _add_dead(commands: argparse._SubParsersAction[Any]) -> None:
    parser = commands.add_parser(
        "dead",
        help="list, requeue or delete the dead letters of a function's broker",
        description="List the dead letters of a function's broker: items that were delivered "
        "max_deliveries times and never finished.",
    )
    _add_target(parser)
    parser.add_argument("--whole", action="store_true", help="do not shorten long items")
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--requeue",
        nargs="*",
        metavar="ID",
        help="send the items with these ids again; without an id, all of them",
    )
    action.add_argument(
        "--delete",
        nargs="*",
        metavar="ID",
        help="delete the items with these ids; without an id, all of them",
    )
    parser.set_defaults(run=_dead)


def _dead(given: argparse.Namespace) -> int:
    from .cli import dead

    return dead.run(given.target, requeue=given.requeue, delete=given.delete, whole=given.whole)


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="MODULE:FUNCTION", help="the decorated function")


# ---- types of arguments ----


def seconds(text: str) -> float:
    """Return a time in seconds, above 0 and finite."""
    return _positive(text)


def rate(text: str) -> float:
    """Return a number of items per second, above 0 and finite."""
    return _positive(text)


def rows(text: str) -> int:
    """Return a number of rows, at least 1."""
    return number(text)


def number(text: str) -> int:
    """Return an integer that is at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be an integer >= 1, got {text!r}")
    return value


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return value


def new_file(text: str) -> Path:
    """Return the path of a file that does not exist yet, in a directory that exists."""
    path = Path(text)
    if path.exists():
        raise argparse.ArgumentTypeError(f"{text} exists; the demo creates a new file")
    return _in_directory(path)


def picture(text: str) -> Path:
    """Return the path of an .svg or .png file in a directory that exists."""
    path = Path(text)
    if path.suffix not in (".svg", ".png"):
        raise argparse.ArgumentTypeError(f"{text} must end in .svg or .png")
    return _in_directory(path)


def _in_directory(path: Path) -> Path:
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {path.parent}")
    return path


if __name__ == "__main__":
    sys.exit(main())
