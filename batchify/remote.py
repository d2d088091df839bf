"""`executor=`: batches run in the threads, processes or machines of an executor.

To another process go the name of the function and one pickled payload: names, as the decorator
stands where a pickled function would be looked for; one payload, as Dask, Parsl and Ray walk every
element of a list. What comes back is one payload, too. A worker of ours waits for each batch, so
that `workers` bounds them wherever they run.
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
from .outcome import Raised, caught
from .outcome.copies import from_parts, has_same_content, parts_of

if TYPE_CHECKING:
    from .engine.batch import Batch

log = logging.getLogger("batchify")

_ALONE = [object()]  # to compare with: nothing else refers to what is in it


class Elsewhere:
    """Where the batches of one decorated function run, and how they get there.

    An executor that the given function made is shut down by `end`, unless something else referred
    to it when it was made: then others may use it.
    """

    def __init__(self, given: Any, name: str) -> None:
        self._given = given
        self.name = name  # of the batched function
        self._is_maker = isinstance(given, type) or not callable(getattr(given, "submit", None))
        self._is_inherited = False
        self._made: Any = None  # by the function that was given, if it is one
        self._is_shared = False  # something else refers to it
        self._ending: Any = None  # the thread that shuts the last one down
        self._lock = threading.RLock()
        self._checked: Any = None  # a function that it can run
        self._waiting: list[Any] = []  # the executors that batches are on: one entry for each

    def forked(self) -> None:
        """In the child of a fork: what there was is the parent's."""
        self._lock = threading.RLock()
        self._made = self._checked = self._ending = None
        self._waiting = []
        self._is_inherited = True

    def has_made(self) -> bool:
        """Return True if there is an executor to `end`, or one that is ending."""
        with self._lock:  # `end` changes both
            return self._made is not None or self._ending is not None

    def end(self, timeout: float | None) -> None:
        """Shut down the executor that was made, and wait for that at most `timeout` seconds.

        A shared one is forgotten. The next call makes a new one.
        """
        with self._lock:
            made, self._made, self._checked = self._made, None, None
            shutdown = None if self._is_shared else getattr(made, "shutdown", None)
            if shutdown is not None:
                # In a thread: a shutdown takes no timeout, and another close waits for it too. If
                # no thread can be started, the interpreter ends, and waits for executors itself.
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
        """At the end of the process: end the processes of batches that hang."""
        for executor in self._waiting.copy():
            with contextlib.suppress(Exception):  # somebody else's idea of `_processes`
                for process in list(executor._processes.values()):
                    process.kill()

    def executor(self) -> Any:
        """The executor; made here, where there is none yet.

        Raises:
            RuntimeError: it was made in the parent process.
            TypeError: what was made is no executor.
        """
        if not self._is_maker:
            if self._is_inherited:
                raise RuntimeError(
                    f"executor: this {kind(self._given)} belongs to the parent process "
                    f"(give a function that makes one: it is called in each process)"
                )
            return self._given
        with self._lock:
            if self._made is None:
                made = [self._given()]
                if not callable(getattr(made[0], "submit", None)):
                    raise TypeError(f"executor must give an executor, got {kind(made[0])}")
                self._is_shared = sys.getrefcount(made[0]) > sys.getrefcount(_ALONE[0])
                self._made = made[0]
            return self._made

    def check(self, function: Callable[..., Any]) -> None:
        """See to it that batches of `function` can run, in its first call.

        The executor is made here: at the end of the process none could be.

        Raises:
            TypeError: what was made is no executor.
            ValueError: it has no name to be found by, and the executor needs one.
            Exception: what the function raises that makes the executor.
        """
        if self.has_checked(function):
            return
        own = function.__func__ if inspect.ismethod(function) else function
        executor = None
        if self._is_maker or not self._is_inherited:  # else its batch fails
            executor = self.executor()
            if STARTS_NO_THREAD_AT_EXIT or not _is_of_the_library(executor):
                with contextlib.suppress(Exception):  # its batch fails
                    executor.submit(_nothing)  # what it needs for its first task is there, too
        if executor is not None and not _is_of_threads(executor):
            why = why_not_found(own)
            if why is None and own.__module__ == "__main__" and not _forks(executor):
                why = "it is in __main__, which is another module there"
            if why is not None:
                raise ValueError(
                    f"executor: {kind(executor)} runs batches where functions are found by their "
                    f"names: {why} (define it at the top of a module that can be imported)"
                )
        self._checked = own

    def has_checked(self, function: Callable[..., Any]) -> bool:
        """Return True if `check` let pass the last call of `function`."""
        own = function.__func__ if inspect.ismethod(function) else function
        return own is self._checked

    def runner(self, batch: Batch, context: Context) -> Callable[..., Any]:
        """What runs the calls of `batch`: gives what a call gives, or a `Raised`."""
        return _Runner(self, batch, context)

    def result(self, executor: Any, held: _Call | None, *task: Any) -> Any:
        """Return what `executor` gives for a task; one of threads runs the call that is `held`."""
        self._waiting.append(executor)
        try:
            try:
                future = executor.submit(*task)
            except RuntimeError:
                # Broken by another batch, or shut down: nothing of this one has run. It may be in
                # the queue all the same, where a thread could not be started.
                what = None if held is None else held.take()
                if not self._is_replaced(executor) or (held is not None and what is None):
                    raise
                if what is not None:
                    held = _Call(*what)
                    task = (_run_lent, ref(held))
                future = self.executor().submit(*task)
            return future.result()
        except futures.CancelledError:
            raise BatchAborted(
                f"{self.name}: the executor cancelled the batch; submit the items again"
            ) from None
        except futures.BrokenExecutor:
            self._is_replaced(executor)
            raise
        finally:
            self._waiting.remove(executor)
            del held, task

    def _is_replaced(self, executor: Any) -> bool:
        """Have the next batch use another one, if one can be made."""
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
    """Runs the calls of one batch."""

    __slots__ = ("_batch", "_context", "_elsewhere")

    def __init__(self, elsewhere: Elsewhere, batch: Batch, context: Context) -> None:
        self._elsewhere = elsewhere
        self._batch = batch
        self._context = context

    def __call__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        call: _Call | None = None
        name = self._elsewhere.name
        try:
            if function is self._batch.engine.options.on_error:
                return self._context.run(function, *args, **kwargs)
            executor = self._elsewhere.executor()
            if _is_of_threads(executor):
                call = _Call(self._batch, self._context, function, args, kwargs)
                return self._elsewhere.result(executor, call, _run_lent, ref(call))
            if function is not self._batch.route.function:
                return self._context.run(function, *args, **kwargs)
            payload = _packed(name, function, args, kwargs)
            where_to_run = (executor, None, run, *name_of(function), payload)
            return _opened(name, self._elsewhere.result(*where_to_run))
        except Exception as error:
            # Of what came from another process only the replay is here.
            return Raised(error, None) if function is next else caught(error)
        finally:
            # A traceback reaches this frame by `f_back`: it must find, and keep, nothing here.
            del self, function, args, kwargs, call


def _nothing() -> None:
    return


def _is_of_the_library(executor: Any) -> bool:
    return type(executor).__module__.startswith("concurrent.futures.")


def _is_of_threads(executor: Any) -> bool:
    """Does it run in threads of this process, and of this interpreter?"""
    # Not by `futures.ThreadPoolExecutor`, which imports it; that fails at the end of the process.
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
    """One call, to be run once at most.

    Whoever waits for it holds it, the executor knows it weakly: the frames of its threads, to which
    every error leads by `f_back`, lead to no items.
    """

    __slots__ = ("__weakref__", "_held")

    def __init__(self, *what: Any) -> None:
        self._held = [what]

    def take(self) -> tuple[Any, ...] | None:
        """What is to be called; None when somebody has taken it."""
        try:
            return self._held.pop()
        except IndexError:
            return None


def _run_lent(weak: ref[_Call]) -> Any:
    call = weak()
    what = None if call is None else call.take()
    if what is None:
        return None  # nobody waits for it
    batch, context, function, args, kwargs = what
    del call, what
    try:
        with waits.lent(batch):
            return context.run(function, *args, **kwargs)
    except BaseException as error:
        return caught(error)
    finally:
        # A traceback reaches this frame by `f_back`: it must find, and keep, nothing here.
        del batch, context, function, args, kwargs


# ---- by name ----


def unpicklable(name: str) -> pickle.PicklingError:
    """Return the error for a batched function that its name does not lead to."""
    return pickle.PicklingError(
        f"{name} is a batched function, which is pickled by its name only: "
        "define it at the top level of a module that the other process can import"
    )


def _packed(name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """All that the function is to be called with; of a method, whose it is.

    Raises:
        BatchAborted: it cannot be pickled. What pickle says would tell callers of others' items.
    """
    count = len(args[0])
    if inspect.ismethod(function):
        args = (function.__self__, *args)
    try:
        return pickle.dumps((name, args, kwargs, count), pickle.HIGHEST_PROTOCOL)
    except Exception as error:
        told = (
            f"{name}: the items cannot be sent to another process: {kind(error)} while pickling "
            f"them; submit items that can be pickled"
        )
    raise BatchAborted(told)


def run(module: str, name: str, payload: bytes) -> bytes:
    """In the other process: call the function, and return what came of it."""
    function = name
    try:
        name, args, kwargs, count = pickle.loads(payload)  # from here on that for messages
        returned = Context().run(found_by_name(module, function), *args, **kwargs)
    except BaseException as error:
        return _answer(name, None, _sent(name, error))
    if isinstance(returned, Iterator):
        return _answer(name, *_exhausted(name, returned, count + 1), is_stream=True)
    return _answer(name, _with_errors_sent(name, returned))


def _exhausted(name: str, iterator: Iterator[Any], most: int) -> tuple[list[Any], Any]:
    values: list[Any] = []
    try:
        values.extend(islice(iterator, most))
        if isinstance(iterator, Generator):
            iterator.close()
    except BaseException as error:
        return _with_errors_sent(name, values), _sent(name, error)
    return _with_errors_sent(name, values), None


def _with_errors_sent(name: str, returned: Any) -> Any:
    """The same, where elements are exceptions: one that cannot be sent harms no neighbour."""
    if isinstance(returned, MappingView):  # which cannot be pickled
        returned = [*cast("Iterable[Any]", returned)]
    if isinstance(returned, (list, tuple)) and any(isinstance(e, BaseException) for e in returned):
        return [_sent(name, e) if isinstance(e, BaseException) else e for e in returned]
    if isinstance(returned, Mapping):
        items = returned.items()
        return {k: _sent(name, e) if isinstance(e, BaseException) else e for k, e in items}
    return returned


def _answer(name: str, returned: Any, error: Any = None, is_stream: bool = False) -> bytes:
    try:
        return pickle.dumps((returned, error, is_stream), pickle.HIGHEST_PROTOCOL)
    except Exception as fault:
        told = (
            f"{name}: the results cannot be sent between processes: {kind(fault)} while pickling "
            f"them; return results that can be pickled"
        )
        return pickle.dumps((None, BatchAborted(told), False), pickle.HIGHEST_PROTOCOL)


class _InParts:
    """An exception whose own way to be pickled fails or loses something; unpickled as itself."""

    def __init__(self, error: BaseException) -> None:
        cls, group, fields, state = parts_of(error)
        if group:
            group = group[0], [_InParts(member) for member in group[1]]
            fields = {name: value for name, value in fields.items() if name not in _OF_GROUPS}
        kept = {n: one for n, one in state.items() if one is None or _replica(one) is not None}
        self._parts = cls, group, fields, kept

    def __reduce__(self) -> Any:
        return from_parts, self._parts


_OF_GROUPS = ("args", "message", "exceptions")  # what the constructor of a group sets


def _replica(value: Any) -> Any:
    """Return what another process would receive, None if it cannot be sent."""
    try:
        return pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
    except Exception:
        return None


def _sent(name: str, error: BaseException) -> Any:
    """Return `error` as it can be sent, with a note where it was raised: a traceback cannot."""
    replica: Any = _replica(error)
    if type(replica) is not type(error):
        replica = None
    in_parts: Any = None
    with contextlib.suppress(Exception):  # its class may refuse to be looked at
        if replica is None or not has_same_content(replica, error):
            in_parts = _replica(_InParts(error))
    if in_parts is not None:
        return _InParts(_noted(in_parts, error))
    if replica is None:
        replica = BatchAborted(
            f"{name} raised {kind(error)}, which cannot be sent between processes; "
            f"raise exceptions that can be pickled"
        )
    return _noted(replica, error)


def _noted(sent: BaseException, error: BaseException) -> BaseException:
    frames = where(error)
    if frames:
        with contextlib.suppress(Exception):  # an exception may refuse to be changed
            sent.add_note("in another process:\n" + frames)
    return sent


def where(error: BaseException) -> str:
    """The frames of an error and of those that led to it; nothing that it says."""
    told: list[str] = []
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        frames = [f for f in traceback.extract_tb(link.__traceback__) if f.filename != __file__]
        if frames:
            told.append("".join(traceback.format_list(frames)) + kind(link))
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return "\nfrom\n".join(told)


def _opened(name: str, answer: bytes) -> Any:
    try:
        returned, error, is_stream = pickle.loads(answer)
    except Exception as fault:
        told = f"{name}: the results cannot be read here: {kind(fault)} while unpickling them"
    else:
        if is_stream:
            return _replayed(returned, error)
        return returned if error is None else Raised(error, None)
    raise BatchAborted(told)


def _replayed(values: list[Any], error: BaseException | None) -> Generator[Any, None, None]:
    """What a generator yielded in another process, and how it ended."""
    yield from values
    if error is not None:
        raise error
