"""`python -m batchify`: the commands, and what they are given.

The parser knows the options only; what does the work is imported by the command that was chosen,
as it may need an extra.
"""

from __future__ import annotations

import argparse
import importlib
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
    _add_tune(commands)
    _add_worker(commands)
    _add_dead(commands)
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
    demo = _with_rich("demo")
    if demo is None:
        return 2
    return int(demo.run(seconds=given.seconds, rows=given.rows, file=given.file))


def _with_rich(command: str) -> Any:
    """The module of a command that shows a table; None, and a word, where rich is missing."""
    try:
        return importlib.import_module(f".cli.{command}", __package__)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        told = f'The {command} shows its table with rich: pip install "batchify-py[{command}]"'
        print(told, file=sys.stderr)
        return None


# ---- tune ----


def _add_tune(commands: argparse._SubParsersAction[Any]) -> None:
    parser = commands.add_parser(
        "tune",
        help="which size and linger suit a function, and whether batching pays",
        description="Call a function with lists of 1, 2, 4, ... items, for real, fit "
        "`time = fixed + per_item * n`, and say which size and linger to use. It needs rich, and "
        "matplotlib for --plot; both come with the extra `tune`.",
    )
    parser.add_argument(
        "target",
        metavar="MODULE:FUNCTION",
        help="the function that takes a list, decorated or not; it is really called",
    )
    parser.add_argument(
        "--items",
        metavar="SOURCE",
        help="what is in the lists: a file of JSON, an item a line, or MODULE:FUNCTION, which is "
        "called with 0, 1, 2, ... and gives an item (default: those numbers)",
    )
    parser.add_argument(
        "--most",
        type=number,
        default=1024,
        metavar="N",
        help="the longest list (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=seconds,
        default=DEFAULT_SECONDS,
        metavar="N",
        help="measure for about N seconds (default: %(default)g)",
    )
    parser.add_argument(
        "--rate",
        type=rate,
        metavar="N",
        help="how many items a second come, for advice on linger and workers",
    )
    parser.add_argument(
        "--plot", type=picture, metavar="PATH", help="draw the figures: .svg or .png"
    )
    parser.set_defaults(run=_tune)


def _tune(given: argparse.Namespace) -> int:
    tune = _with_rich("tune")
    if tune is None:
        return 2
    return int(
        tune.run(
            given.target,
            items=given.items,
            most=given.most,
            seconds=given.seconds,
            rate=given.rate,
            plot=given.plot,
        )
    )


# ---- worker, dead ----


def _add_worker(commands: argparse._SubParsersAction[Any]) -> None:
    parser = commands.add_parser(
        "worker",
        help="run what callers anywhere have sent to a function's broker",
        description="Run the items of a function with a broker, until SIGTERM or SIGINT: then it "
        "finishes what it has, and leaves. Start as many as you want, on any machine.",
    )
    _add_target(parser)
    parser.add_argument(
        "--workers",
        type=number,
        metavar="N",
        help="how many batches run at the same time in this process (default: the function's)",
    )
    parser.set_defaults(run=_worker)


def _worker(given: argparse.Namespace) -> int:
    from .cli import worker

    return worker.run(given.target, workers=given.workers)


def _add_dead(commands: argparse._SubParsersAction[Any]) -> None:
    parser = commands.add_parser(
        "dead",
        help="the dead letters of a function's broker",
        description="List the items that were delivered too often without an end.",
    )
    _add_target(parser)
    parser.add_argument("--whole", action="store_true", help="show long items as a whole")
    act = parser.add_mutually_exclusive_group()
    act.add_argument(
        "--requeue", nargs="*", metavar="ID", help="send them once more, all or those of these ids"
    )
    act.add_argument(
        "--delete", nargs="*", metavar="ID", help="forget them, all or those of these ids"
    )
    parser.set_defaults(run=_dead)


def _dead(given: argparse.Namespace) -> int:
    from .cli import dead

    return dead.run(given.target, requeue=given.requeue, delete=given.delete, whole=given.whole)


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="MODULE:FUNCTION", help="the decorated function")


# ---- kinds of arguments; argparse calls a bad one by the function's name ----


def seconds(text: str) -> float:
    """A time that is not over at once, and that ends."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


def rows(text: str) -> int:
    """A number of rows, at least one."""
    return number(text)


def number(text: str) -> int:
    """A whole number, at least one."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def rate(text: str) -> float:
    """A number of items a second, more than none."""
    return seconds(text)


def new_file(text: str) -> Path:
    """The path of a file that can be made."""
    path = Path(text)
    if path.exists():
        raise argparse.ArgumentTypeError(f"{text} exists; the demo wants a file of its own")
    return _in_directory(path)


def picture(text: str) -> Path:
    """The path of a picture, .svg or .png, in a directory that there is."""
    path = Path(text)
    if path.suffix not in (".svg", ".png"):
        raise argparse.ArgumentTypeError(f"{text} must end in .svg or .png")
    return _in_directory(path)


def _in_directory(path: Path) -> Path:
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is no directory")
    return path


if __name__ == "__main__":
    sys.exit(main())
