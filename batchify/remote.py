"""`executor=`: batches run in the threads, processes or machines of an executor.

To another process go the name of the function and one pickled payload: names, as the decorator
stands where a pickled function would be looked for; one payload, as Dask, Parsl and Ray walk every
element of a list. What comes back is one payload, too. A worker of ours waits for each batch, so
that `workers` bounds them wherever they run.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from concurrent import futures
from contextvars import Context
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from . import waits
from .engine import lifecycle
from .errors import BatchAborted
from .interpreter import STARTS_NO_THREAD_AT_EXIT
from .options import kind
from .outcome import Raised, caught

if TYPE_CHECKING:
    from .engine.batch import Batch


class Elsewhere:
    """Where the batches of one decorated function run, and how they get there."""

    def __init__(self, given: Any) -> None:
        self._given = given
        self._made: Any = None  # by the function that was given, if it is one
        self._used: WeakSet[Any] = WeakSet()
        self._lock = threading.RLock()
        self._checked: Any = None  # a function that it can run

    def forked(self) -> None:
        """In the child of a fork: what was made before is the parent's."""
        self._lock = threading.RLock()
        self._used = WeakSet()
        self._made = None

    def let_go(self) -> None:
        """Forget what was made: the next batch has a new one.

        The standard library's executors end when nobody holds them; one that others share lives on.
        """
        self._made = None

    def abandon(self) -> None:
        """At the end of the process: a batch hangs, and must not hold it any longer."""
        for executor in list(self._used):
            for process in list((getattr(executor, "_processes", None) or {}).values()):
                process.kill()

    def executor(self) -> Any:
        """The executor; made here, where there is none yet."""
        if not is_maker(self._given):
            return self._given
        with self._lock:
            if self._made is None:
                made = self._given()
                if not callable(getattr(made, "submit", None)):
                    raise TypeError(f"executor must give an executor, got {kind(made)}")
                self._made = made
            return self._made

    def check(self, function: Callable[..., Any]) -> None:
        """See to it that batches of `function` can run, in its first call.

        The executor is made here: at the end of the process none could be.

        Raises:
            ValueError: it has no name to be found by, and the executor needs one.
        """
        own = function.__func__ if inspect.ismethod(function) else function
        if own is self._checked:
            return
        why = _why_not_found(own)
        if why is not None or own.__module__ == "__main__":
            self._refuse(self.executor(), why)
        with contextlib.suppress(Exception):  # its batch will tell
            executor = self.executor()
            if STARTS_NO_THREAD_AT_EXIT:
                executor.submit(_nothing)  # so that it has one
        lifecycle.come_first()  # at the end of the process: before that of executors
        self._checked = own

    def _refuse(self, executor: Any, why: str | None) -> None:
        if _is_of_threads(executor) or (why is None and _forks(executor)):
            return
        raise ValueError(
            f"executor: {kind(executor)} runs batches in other processes, which find the function "
            f"by its name: {why or 'it is in __main__, which is another module there'} "
            f"(define it at the top of a module that can be imported)"
        )

    def runner(self, batch: Batch, context: Context) -> Callable[..., Any]:
        """What runs the calls of `batch`: gives what a call gives, or a `Raised`."""
        plain, on_error = batch.route.function, batch.engine.options.on_error

        def there(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            try:
                executor = None if function is on_error else self.executor()
                if executor is not None and _is_of_threads(executor):
                    return self._result(executor, _run_lent, batch, context, function, args, kwargs)
                if executor is not None and function is plain:
                    payload = _packed(function, args, kwargs)
                    return _opened(self._result(executor, run, *_name_of(function), payload))
                return context.run(function, *args, **kwargs)
            except Exception as error:
                # Of what came from another process only the replay is here.
                return Raised(error, None) if function is next else caught(error)
            finally:
                del function, args, kwargs  # no item is kept through the frames of an error

        return there

    def _result(self, executor: Any, *call: Any) -> Any:
        self._used.add(executor)
        try:
            future = executor.submit(*call)
        except RuntimeError:  # broken by another batch, or shut down: nothing of this one has run
            if not self._is_replaced(executor):
                raise
            future = self.executor().submit(*call)
        try:
            return future.result()
        except futures.CancelledError:
            raise BatchAborted("the batch was cancelled by its executor") from None
        except futures.BrokenExecutor:
            self._is_replaced(executor)
            raise
        finally:
            del call, future

    def _is_replaced(self, executor: Any) -> bool:
        """Have the next batch use another one, if one can be made."""
        with self._lock:
            if self._made is executor:
                self._made = None
        return is_maker(self._given)


def _nothing() -> None:
    return


def is_maker(given: Any) -> bool:
    """Is it a function that makes an executor, rather than one?"""
    return isinstance(given, type) or not callable(getattr(given, "submit", None))


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


def _run_lent(
    batch: Batch, context: Context, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    try:
        with waits.lent(batch):
            return context.run(function, *args, **kwargs)
    except BaseException as error:
        return caught(error)
    finally:
        # A traceback reaches this frame by `f_back`: it must find, and keep, nothing here.
        del batch, context, function, args, kwargs


# ---- by name ----


def _name_of(function: Any) -> tuple[Any, Any]:
    if inspect.ismethod(function):
        function = function.__func__
    return getattr(function, "__module__", None), getattr(function, "__qualname__", None)


def _why_not_found(function: Any) -> str | None:
    """Why `function` is not what its name leads to; None when it is."""
    module, name = _name_of(function)
    if not isinstance(module, str) or not isinstance(name, str):
        return f"{kind(function)} has none"
    if "<" in name:
        return f"{name} is inside another function, or a lambda"
    try:
        found = _found(module, name)
    except (ImportError, AttributeError) as error:
        return f"{module}.{name} is not found ({kind(error)})"
    return None if found is function else f"{module}.{name} is something else"


def _found(module: str, name: str) -> Any:
    """The plain function of that name: what is under `@batched`, where that stands there."""
    from .decorator import Batched

    target: Any = importlib.import_module(module)
    for part in name.split("."):
        target = inspect.getattr_static(target, part)
    links = [target]
    while (link := _under(links[-1])) is not None:
        links.append(link)
    for link in links:
        if isinstance(link, Batched):
            target = _under(link)
            break
    while isinstance(target, (classmethod, staticmethod)):
        target = target.__func__
    return target


def _under(link: Any) -> Any:
    if isinstance(link, (classmethod, staticmethod)):
        return link.__func__
    return getattr(link, "__wrapped__", None)


def _packed(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """All that the function is to be called with; of a method, whose it is."""
    if inspect.ismethod(function):
        args = (function.__self__, *args)
    return pickle.dumps((args, kwargs), pickle.HIGHEST_PROTOCOL)


def run(module: str, name: str, payload: bytes) -> bytes:
    """In the other process: call the function, and tell what came of it."""
    try:
        args, kwargs = pickle.loads(payload)
        returned = Context().run(_found(module, name), *args, **kwargs)
    except BaseException as error:
        return _answer(None, _sent(error))
    if isinstance(returned, Generator):
        return _answer(*_exhausted(returned), is_stream=True)
    return _answer(returned)


def _exhausted(generator: Generator[Any, Any, Any]) -> tuple[list[Any], BaseException | None]:
    values: list[Any] = []
    try:
        values.extend(generator)
    except BaseException as error:
        return values, _sent(error)
    return values, None


def _answer(returned: Any, error: BaseException | None = None, is_stream: bool = False) -> bytes:
    try:
        return pickle.dumps((returned, error, is_stream), pickle.HIGHEST_PROTOCOL)
    except Exception as fault:
        told = BatchAborted(f"the results cannot be sent from the other process ({kind(fault)})")
        told.__cause__ = _sent(fault)
        return pickle.dumps((None, told, False), pickle.HIGHEST_PROTOCOL)


def _sent(error: BaseException) -> BaseException:
    """`error` as it can be sent, with a note where it came from: a traceback cannot."""
    frames = error.__traceback__.tb_next if error.__traceback__ is not None else None
    where = "in another process:\n" + "".join(traceback.format_tb(frames)).rstrip()
    try:
        sent: BaseException = pickle.loads(pickle.dumps(error, pickle.HIGHEST_PROTOCOL))
        if type(sent) is not type(error):
            raise TypeError(kind(sent))
    except Exception:
        sent = BatchAborted(
            f"the batch raised {kind(error)}, which cannot be sent between processes"
        )
    sent.add_note(where)
    return sent


def _opened(answer: bytes) -> Any:
    returned, error, is_stream = pickle.loads(answer)
    if is_stream:
        return _replayed(returned, error)
    return returned if error is None else Raised(error, None)


def _replayed(values: list[Any], error: BaseException | None) -> Generator[Any, None, None]:
    """What a generator yielded in another process, and how it ended."""
    yield from values
    if error is not None:
        raise error
