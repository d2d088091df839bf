"""`python -m batchify dead app:insert`: list, requeue or delete the dead letters."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from ..worker import dead_letters
from .target import CommandError, describe, load, print_mistake

SHORT = 80  # characters of an item


def run(
    target: str, *, requeue: Sequence[str] | None, delete: Sequence[str] | None, whole: bool
) -> int:
    """List the dead letters, or requeue or delete them.

    Args:
        target: the function, as "module:function".
        requeue: the ids of the items to send again; empty: all of them; None: do not requeue.
        delete: the ids of the items to delete; empty: all of them; None: do not delete.
        whole: do not shorten long items.

    Returns:
        The exit status: 0; 1 if an id is unknown or the broker cannot be reached; 2 after a mistake
        of the user.
    """
    try:
        letters = dead_letters(load(target))
    except (CommandError, TypeError, ValueError) as error:
        return print_mistake(target, error)
    try:
        if requeue is not None:
            return _end(letters, requeue, letters.requeue, "requeued")
        if delete is not None:
            return _end(letters, delete, letters.delete, "deleted")
        _list(letters, whole)
    except BrokenPipeError:
        raise
    except Exception as error:
        print(f"{target}: cannot read the dead letters: {describe(error)}", file=sys.stderr)
        return 1
    return 0


def _list(letters: Any, whole: bool) -> None:
    count = 0
    for letter in letters:
        count += 1
        died = datetime.fromtimestamp(letter.died).isoformat(" ", "seconds")
        item = letter.payload.decode(errors="backslashreplace")
        if not whole and len(item) > SHORT:
            item = f"{item[:SHORT]}..."
        times = "once" if letter.deliveries == 1 else f"{letter.deliveries} times"
        print(f"{letter.id}  {died}  delivered {times}  {item}")
    print(f"{count} dead letter{'' if count == 1 else 's'}", file=sys.stderr)


def _end(letters: Any, ids: Sequence[str], end: Callable[[Any], int], done: str) -> int:
    """Requeue or delete letters, and name the ids that do not exist."""
    known = {letter.id for letter in letters} if ids else set()
    unknown = [one for one in dict.fromkeys(ids) if one not in known]
    print(f"{end(ids or None)} {done}")
    for one in unknown:
        print(f"no dead letter has the id {one}", file=sys.stderr)
    return 1 if unknown else 0
