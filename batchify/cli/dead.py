"""`python -m batchify dead app:insert`: look at the dead letters, and send or forget them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime

from ..worker import dead_letters
from .target import Unfit, found, kind_of

SHORT = 80  # characters of an item


def run(
    target: str, *, requeue: Sequence[str] | None, delete: Sequence[str] | None, whole: bool
) -> int:
    """List them; or requeue or delete those of the ids that are given, all for no ids.

    Returns:
        The exit status.
    """
    try:
        letters = dead_letters(found(target))
        if requeue is not None:
            print(f"{letters.requeue(requeue or None)} requeued")
        elif delete is not None:
            print(f"{letters.delete(delete or None)} deleted")
        else:
            for one in letters:
                died = datetime.fromtimestamp(one.died).isoformat(" ", "seconds")
                what = one.payload.decode(errors="backslashreplace")
                if not whole and len(what) > SHORT:
                    what = f"{what[:SHORT]}..."
                print(f"{one.id}  {died}  delivered {one.deliveries} times  {what}")
            print(f"{len(letters)} dead letters", file=sys.stderr)
    except (Unfit, TypeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    except Exception as error:  # no server, or it refuses
        print(f"{kind_of(error)}: {error}", file=sys.stderr)
        return 1
    return 0
