"""`executor=`: run batches in the threads, processes or machines of an executor.

A batchify worker waits for each batch, so `workers` limits how many run at once, wherever they run.
Another process receives the function's name and one pickled payload, and returns one payload. The
function goes by name, because pickle would find the decorated object under it. The items go in one
payload, because Dask, Parsl and Ray inspect every element of a list.
Callers are the thread engine, and the decorator for functions that are pickled.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, MappingView
from concurrent import futures
from contextvars import Context
from itertools import islice
from typing import TYPE_CHECKING, Any, cast
from weakref import ref

from . import waits
from .engine.seam import THREADS
from .errors import BatchAborted
from .interpreter import STARTS_NO_THREAD_AT_EXIT
from .naming import found_by_name, name_of, why_not_found
from .options import kind
from .outcome import Raised, to_raised
from .outcome.copies import from_parts, has_same_content, parts_of

if TYPE_CHECKING:
    from .engine.batch import Batch

log = logging.getLogger("batchify")

_UNSHARED = [object()]  # its element has the reference count of an object without other users


class ExecutorRunner:
    """Runs the batches of one decorated function on its executor.

    If `executor=` is a function, `end` shuts down the executor that it returned, unless something
    else refers to that executor, because other code may use it then.
    """

    def __init__(self, given: Any, name: str) -> None:
        self._given = given
        self.name = name  # of the batched function
        self._is_maker = isinstance(given, type) or not callable(getattr(given, "submit", None))
        self._is_inherited = False
        self._made: Any = None  # the executor that the given function returned
        self._is_shared = False  # True if something else refers to that executor
        self._ending: Any = None  # the thread that shuts down the previous executor
        self._lock = threading.RLock()
        self._checked: Any = None  # the last function that the executor can run
        self._in_use: list[Any] = []  # the executor of each running batch

    def forked(self) -> None:
        """Reset the state in the child of a fork: executors belong to the parent."""
        self._lock = threading.RLock()
        self._made = self._checked = self._ending = None
        self._in_use = []
        self._is_inherited = True

    def has_made(self) -> bool:
        """Return True if there is an executor to `end`, or one that is being shut down."""
        with self._lock:  # `end` changes both attributes
            return self._made is not None or self._ending is not None

    def end(self, timeout: float | None) -> None:
        """Shut down the executor that `executor=` returned; the next batch gets a new one.

        A shared executor is released, but not shut down.

        Args:
            timeout: the maximum seconds to wait for the shutdown; None: no limit.
        """
        with self._lock:
            made, self._made, self._checked = self._made, None, None
            shutdown = None if self._is_shared else getattr(made, "shutdown", None)
            if shutdown is not None:
                # In a thread, because `shutdown` takes no timeout, and other calls of `close` wait
                # for it too. If no thread can start, the interpreter is exiting, and waits for
                # executors itself.
                with contextlib.suppress(RuntimeError):
                    thread = f"batchify:{self.name}:executor"
                    self._ending = THREADS.spawn(_shut_down, (self.name, shutdown), thread)
            ending = self._ending
        if ending is not None:
            ending.join(timeout)
            with self._lock:
                if self._ending is ending and not ending.is_alive():
                    self._ending = None

    def abandon(self) -> None:
        """Kill the processes of hung batches, at process exit."""
        for executor in self._in_use.copy():
            with contextlib.suppress(Exception):  # another library may use `_processes` differently
                for process in list(executor._processes.values()):
                    process.kill()

    def executor(self) -> Any:
        """Return the executor; call the given function if there is none yet.

        Raises:
            RuntimeError: the executor was created in the parent process.
            TypeError: the given function did not return an executor.
        """
        if not self._is_maker:
            if self._is_inherited:
                raise RuntimeError(
                    f"executor: this {kind(self._given)} belongs to the parent process; pass a "
                    f"function that returns an executor, which is called in each process"
                )
            return self._given
        with self._lock:
            if self._made is None:
                made = [self._given()]
                if not callable(getattr(made[0], "submit", None)):
                    raise TypeError(
                        f"executor must be an executor or return one, but returned {kind(made[0])}"
                    )
                self._is_shared = sys.getrefcount(made[0]) > sys.getrefcount(_UNSHARED[0])
                self._made = made[0]
            return self._made

    def check(self, function: Callable[..., Any]) -> None:
        """Check, in its first call, that the executor can run `function`.

        This also creates the executor, because during process exit that may fail.

        Raises:
            TypeError: the given function did not return an executor.
            ValueError: the executor needs a function that can be imported, and this one cannot be.
            Exception: the given function raised it.
        """
        if self.has_checked(function):
            return
        own = function.__func__ if inspect.ismethod(function) else function
        executor = None
        if self._is_maker or not self._is_inherited:  # else the batch fails, with the reason
            executor = self.executor()
            if STARTS_NO_THREAD_AT_EXIT or not _is_from_stdlib(executor):
                # A first task, so that the executor starts its threads and processes now. If it
                # fails, the batch fails too, with the reason.
                with contextlib.suppress(Exception):
                    executor.submit(_nothing)
        if executor is not None and not _uses_threads(executor):
            why = why_not_found(own)
            if why is None and own.__module__ == "__main__" and not _forks(executor):
                why = "it is in __main__, which is another module in the new process"
            if why is not None:
                raise ValueError(
                    f"executor: {kind(executor)} imports the function by its name, but {why}; "
                    f"define it at the top level of a module that can be imported"
                )
        self._checked = own

    def has_checked(self, function: Callable[..., Any]) -> bool:
        """Return True if the last function that passed `check` is `function`."""
        own = function.__func__ if inspect.ismethod(function) else function
        return own is self._checked

    def runner(self, batch: Batch, context: Context) -> Callable[..., Any]:
        """Return a function that runs a call of `batch` and returns its value, or a `Raised`."""
        return _Runner(self, batch, context)

    def result(self, executor: Any, held: _Call | None, *task: Any) -> Any:
        """Run a task on `executor` and return its result.

        Args:
            executor: the executor.
            held: the call that the task runs, for an executor that uses threads.
            task: the function and the arguments for `executor.submit`.
        """
        self._in_use.append(executor)
        try:
            try:
                future = executor.submit(*task)
            except RuntimeError:
                # The executor is broken or shut down, and this task has not run. It may be queued
                # all the same, if `submit` failed to start a thread: `take` withdraws it.
                call = None if held is None else held.take()
                if not self._can_replace(executor) or (held is not None and call is None):
                    raise
                if call is not None:
                    held = _Call(*call)
                    task = (_run_borrowed, ref(held))
                future = self.executor().submit(*task)
            return future.result()
        except futures.CancelledError:
            raise BatchAborted(
                f"{self.name}: the executor cancelled the batch; submit the items again"
            ) from None
        except futures.BrokenExecutor:
            self._can_replace(executor)
            raise
        finally:
            self._in_use.remove(executor)
            del held, task

    def _can_replace(self, executor: Any) -> bool:
        """Drop `executor`; return True if the next batch can get another one."""
        with self._lock:
            if self._made is executor:
                self._made = None
        return self._is_maker


def _shut_down(name: str, shutdown: Callable[[], object]) -> None:
    try:
        shutdown()
    except Exception as error:
        log.error("%s: the executor cannot be shut down: %s", name, kind(error))


class _Runner:
    """Runs the calls of one batch, in the executor or in the worker."""

    __slots__ = ("_batch", "_context", "_runner")

    def __init__(self, runner: ExecutorRunner, batch: Batch, context: Context) -> None:
        self._runner = runner
        self._batch = batch
        self._context = context

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        call: _Call | None = None
        name = self._runner.name
        try:
            if function is self._batch.engine.options.on_error:
                return self._context.run(function, *args, **kwargs)
            executor = self._runner.executor()
            if _uses_threads(executor):
                call = _Call(self._batch, self._context, function, args, kwargs)
                return self._runner.result(executor, call, _run_borrowed, ref(call))
            if function is not self._batch.route.function:
                return self._context.run(function, *args, **kwargs)
            payload = _payload(name, function, args, kwargs)
            where_to_run = (executor, None, run, *name_of(function), payload)
            return _decoded(name, self._runner.result(*where_to_run))
        except Exception as error:
            # For `next`, the frames here are only those that replay another process's results.
            return Raised(error, None) if function is next else to_raised(error)
        finally:
            # A traceback refers to this frame by `f_back`, so the frame must not keep any items.
            del self, function, args, kwargs, call


def _nothing() -> None:
    return


def _is_from_stdlib(executor: Any) -> bool:
    return type(executor).__module__.startswith("concurrent.futures.")


def _uses_threads(executor: Any) -> bool:
    """Return True if the executor runs tasks in threads of this process and interpreter."""
    # `futures.ThreadPoolExecutor` would import a module, and that fails during process exit.
    return _is_one(executor, "thread", "ThreadPoolExecutor") and not _is_one(
        executor, "interpreter", "InterpreterPoolExecutor"
    )


def _is_one(executor: Any, module: str, name: str) -> bool:
    found = sys.modules.get(f"concurrent.futures.{module}")
    return found is not None and isinstance(executor, getattr(found, name))


def _forks(executor: Any) -> bool:
    context = getattr(executor, "_mp_context", None)
    return context is not None and context.get_start_method() == "fork"


# ---- in a thread of an executor ----


class _Call:
    """One call, which runs at most once.

    The waiting worker holds it, and the executor has only a weak reference. So the frames of the
    executor's threads, to which every traceback refers, do not keep any items.
    """

    __slots__ = ("__weakref__", "_held")

    def __init__(self, *parts: Any) -> None:
        self._held = [parts]

    def take(self) -> tuple[Any, ...] | None:
        """Return the parts of the call, or None if it was taken before."""
        try:
            return self._held.pop()
        except IndexError:
            return None


def _run_borrowed(weak: ref[_Call]) -> Any:
    call = weak()
    parts = None if call is None else call.take()
    if parts is None:
        return None  # the worker no longer waits for it
    batch, context, function, args, kwargs = parts
    del call, parts
    try:
        with waits.lent(batch):
            return context.run(function, *args, **kwargs)
    except BaseException as error:
        return to_raised(error)
    finally:
        # A traceback refers to this frame by `f_back`, so the frame must not keep any items.
        del batch, context, function, args, kwargs


# ---- by name ----


def unpicklable(name: str) -> pickle.PicklingError:
    """Return the error for pickling a batched function that cannot be imported by its name."""
    return pickle.PicklingError(
        f"{name} is a batched function, which is pickled by its name only: "
        "define it at the top level of a module that the other process can import"
    )


def _payload(name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Return all arguments as one pickle, including the instance of a method.

    Raises:
        BatchAborted: an argument cannot be pickled. The error omits pickle's message, which would
            show the items of other callers.
    """
    count = len(args[0])
    if inspect.ismethod(function):
        args = (function.__self__, *args)
    try:
        return pickle.dumps((name, args, kwargs, count), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        message = (
            f"{name}: the items cannot be sent to another process: {kind(error)} while pickling "
            f"them; submit items that can be pickled"
        )
    raise BatchAborted(message)


def run(module: str, name: str, payload: bytes) -> bytes:
    """Call the function, in the other process, and return its outcome as a pickle.

    Args:
        module: the module of the function.
        name: its qualified name.
        payload: the arguments, made by `_payload`.
    """
    function = name
    try:
        name, args, kwargs, count = pickle.loads(payload)  # now `name` is the one for messages
        returned = Context().run(found_by_name(module, function), *args, **kwargs)
    except BaseException as error:
        return _encoded(name, None, _sendable(name, error))
    if isinstance(returned, Iterator):
        return _encoded(name, *_consumed(name, returned, count + 1), is_stream=True)
    return _encoded(name, _with_sendable_errors(name, returned))


def _consumed(name: str, iterator: Iterator[Any], limit: int) -> tuple[list[Any], Any]:
    values: list[Any] = []
    try:
        values.extend(islice(iterator, limit))
        if isinstance(iterator, Generator):
            iterator.close()
    except BaseException as error:
        return _with_sendable_errors(name, values), _sendable(name, error)
    return _with_sendable_errors(name, values), None


def _with_sendable_errors(name: str, returned: Any) -> Any:
    """Return the results with each exception made sendable, so that none fails the whole batch."""
    if isinstance(returned, MappingView):  # a view cannot be pickled
        returned = [*cast("Iterable[Any]", returned)]
    if isinstance(returned, (list, tuple)) and any(isinstance(e, BaseException) for e in returned):
        return [_sendable(name, e) if isinstance(e, BaseException) else e for e in returned]
    if isinstance(returned, Mapping):
        items = returned.items()
        return {k: _sendable(name, e) if isinstance(e, BaseException) else e for k, e in items}
    return returned


def _encoded(name: str, returned: Any, error: Any = None, is_stream: bool = False) -> bytes:
    try:
        return pickle.dumps((returned, error, is_stream), pickle.HIGHEST_PROTOCOL)
    except Exception as fault:
        message = (
            f"{name}: the results cannot be sent between processes: {kind(fault)} while pickling "
            f"them; return results that can be pickled"
        )
        return pickle.dumps((None, BatchAborted(message), False), pickle.HIGHEST_PROTOCOL)


class _ByParts:
    """Pickles an exception by its parts, because its own pickling fails or loses content."""

    def __init__(self, error: BaseException) -> None:
        cls, group, fields, state = parts_of(error)
        if group:
            group = group[0], [_ByParts(member) for member in group[1]]
            fields = {name: value for name, value in fields.items() if name not in _OF_GROUPS}
        kept = {n: one for n, one in state.items() if one is None or _replica(one) is not None}
        self._parts = cls, group, fields, kept

    def __reduce__(self) -> Any:
        return from_parts, self._parts


_OF_GROUPS = ("args", "message", "exceptions")  # fields that a group's constructor sets


def _replica(value: Any) -> Any:
    """Return `value` as another process would receive it, or None if it cannot be pickled."""
    try:
        return pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
    except Exception:
        return None


def _sendable(name: str, error: BaseException) -> Any:
    """Return `error` in a form that can be pickled; a note replaces its traceback."""
    replica: Any = _replica(error)
    if type(replica) is not type(error):
        replica = None
    in_parts: Any = None
    with contextlib.suppress(Exception):  # its class may raise from any attribute
        if replica is None or not has_same_content(replica, error):
            in_parts = _replica(_ByParts(error))
    if in_parts is not None:
        return _ByParts(_with_frames(in_parts, error))
    if replica is None:
        replica = BatchAborted(
            f"{name} raised {kind(error)}, which cannot be sent between processes; "
            f"raise exceptions that can be pickled"
        )
    return _with_frames(replica, error)


def _with_frames(sent: BaseException, error: BaseException) -> BaseException:
    frames = frames_of(error)
    if frames:
        with contextlib.suppress(Exception):  # an exception may refuse to be changed
            sent.add_note("in another process:\n" + frames)
    return sent


def frames_of(error: BaseException) -> str:
    """Return the frames of an error and of its causes as text, without their messages."""
    parts: list[str] = []
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        frames = [f for f in traceback.extract_tb(link.__traceback__) if f.filename != __file__]
        if frames:
            parts.append("".join(traceback.format_list(frames)) + kind(link))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "\nfrom\n".join(parts)


def _decoded(name: str, answer: bytes) -> Any:
    try:
        returned, error, is_stream = pickle.loads(answer)
    except Exception as fault:
        message = f"{name}: the results cannot be read here: {kind(fault)} while unpickling them"
    else:
        if is_stream:
            return _replay(returned, error)
        return returned if error is None else Raised(error, None)
    raise BatchAborted(message)


def _replay(values: list[Any], error: BaseException | None) -> Generator[Any, None, None]:
    """Yield what a generator yielded in another process, then raise what it raised."""
    yield from values
    if error is not None:
        raise error
