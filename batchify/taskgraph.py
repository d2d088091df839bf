"""Find the batchify futures that a suspended asyncio task waits for, directly or not.

asyncio keeps no such graph, so it is read from the tasks: from what each one awaits, and from the
frames and callbacks of `gather`, `wait`, `shield`, `as_completed` and `TaskGroup`. A wait of any
other form, or with a time limit, counts as one that can end.
`stalls` calls this on the loop of the tasks, while none of them runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from types import CodeType, FrameType
from typing import TYPE_CHECKING, Any

from .waits import has_time_limit

if TYPE_CHECKING:
    from .future import BatchFuture

# By the code of batchify's coroutines and generators that wait for a future: the name of the local
# variable that holds it.
own_waits: dict[CodeType, str] = {}

_tasks: Any = asyncio.tasks
_WAIT_FOR: CodeType = asyncio.wait_for.__code__
_WAIT: CodeType = _tasks._wait.__code__
_QUEUE_GET: CodeType = asyncio.Queue.get.__code__
_LEAVE_GROUP = {
    getattr(asyncio.TaskGroup, name).__code__
    for name in ("__aexit__", "_aexit")
    if hasattr(asyncio.TaskGroup, name)
}


def awaited(task: Any, futures: Collection[Any]) -> list[BatchFuture[Any]] | None:
    """Return the unfinished batchify futures of which at least one must end to wake `task`.

    Args:
        task: A suspended task.
        futures: The futures that tasks of batches wait for.

    Returns:
        None if something else may wake it.
    """
    found: list[BatchFuture[Any]] = []
    seen: set[Any] = set()
    left = [task]
    while left:
        future = left.pop()
        if future in seen:
            continue
        seen.add(future)
        if _is_ours(future):
            found.append(future)
            continue
        parts = _awaited_by_task(future, futures) if _is_task(future) else _joined(future)
        pending = [part for part in parts if not part.done()]
        if not pending:  # unknown, or about to continue
            return None
        left += pending
    return found or None


def _is_ours(future: Any) -> bool:
    return hasattr(future, "_function_name")


def _is_task(future: Any) -> bool:
    return isinstance(future, asyncio.Task)


def _awaited_by_task(task: Any, futures: Collection[Any]) -> Iterable[Any]:
    waiter = task._fut_waiter
    if waiter is None or task._must_cancel:
        return ()
    frames = _frames(task)
    if any(has_time_limit(frame, _WAIT_FOR) for frame in frames):
        return ()
    if _is_ours(waiter) or _is_task(waiter) or not frames:
        return (waiter,)
    last = frames[-1]
    if last.f_code in own_waits:
        return (last.f_locals[own_waits[last.f_code]],)
    if last.f_code is _WAIT:
        return () if last.f_locals["timeout_handle"] is not None else last.f_locals["fs"]
    if last.f_code in _LEAVE_GROUP:
        return last.f_locals["self"]._tasks  # type: ignore[no-any-return]
    if last.f_code is _QUEUE_GET and len(frames) > 1:
        return _left_to_complete(task, frames[-2], futures)
    return (waiter,)


def _frames(task: Any) -> list[FrameType]:
    """Return the frames of the coroutines and generators of `task`, the innermost last."""
    frames = []
    inner = task.get_coro()
    while inner is not None:
        for prefix, awaited_name in (("cr", "await"), ("gi", "yieldfrom"), ("ag", "await")):
            frame = getattr(inner, f"{prefix}_frame", None)
            if frame is not None:
                frames.append(frame)
                inner = getattr(inner, f"{prefix}_{awaited_name}")
                break
        else:
            break
    return frames


def _joined(future: Any) -> Iterable[Any]:
    """Return what a future of `gather` or `shield` waits for; nothing for any other."""
    children = getattr(future, "_children", None)
    if children is not None:
        return children  # type: ignore[no-any-return]
    for callback in _callbacks(future):
        if getattr(callback, "__qualname__", "") == "shield.<locals>._outer_done_callback":
            return (_cells(callback)["inner"],)
    return ()


def _left_to_complete(task: Any, frame: FrameType, futures: Collection[Any]) -> Iterable[Any]:
    """Return what `as_completed` waits for, if `frame` belongs to it."""
    if frame.f_code.co_name != "_wait_for_one" or frame.f_globals is not vars(_tasks):
        return ()
    names = frame.f_locals
    if "self" in names:  # from Python 3.13 on
        iterator = names["self"]
        return () if iterator._timeout_handle is not None else iterator._todo
    # Only the callbacks of its futures refer to the set of futures that are left.
    for future in [*futures, *asyncio.all_tasks(task.get_loop())]:
        for callback in _callbacks(future):
            if getattr(callback, "__qualname__", "") == "as_completed.<locals>._on_completion":
                cells = _cells(callback)
                if cells["done"] is names["done"]:
                    return () if cells["timeout_handle"] is not None else cells["todo"]
    return ()


def _callbacks(future: Any) -> list[Any]:
    callbacks: Any = getattr(future, "_callbacks", None)
    if callable(callbacks):  # a `LoopFuture`
        callbacks = callbacks()
    return [callback for callback, _ in callbacks or ()]


def _cells(function: Any) -> dict[str, Any]:
    names = function.__code__.co_freevars
    return {
        name: cell.cell_contents for name, cell in zip(names, function.__closure__, strict=True)
    }
