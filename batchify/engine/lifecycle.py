"""The ends that come from outside: exit and fork. The only module that knows of them.

Exit: the hook runs before `threading` and `multiprocessing` shut down, in the main process and in
child processes, so batches can still use thread pools, process pools and name resolution. The
workers are daemons, so the hook can give up a hung batch. Threads that the interpreter joins after
that may still submit: `atexit` runs the hook again, and their calls wait for their results.

Fork: one hook for the module, over all engines that live.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from .. import unasked, waits
from ..interpreter import monotonic
from ..logs import items

log = logging.getLogger("batchify")

_engines: WeakValueDictionary[int, Any] = WeakValueDictionary()  # by id
_held: set[Any] = set()  # engines with items that nothing else is going to look after
_child_hooks: list[Callable[[], None]] = []
_register_hooks: list[Callable[[Any], None]] = []
_last_hooks: list[Callable[[], None]] = []
# By thread: the locks it holds while it forks; a list for each fork, as a finalizer may fork, too.
_locked: dict[int, list[list[Any]]] = {}
_is_hooked = False
_is_before_multiprocessing = False
_is_ending = False

# Registered early, so it runs late: after functions of the user that may ask for errors.
atexit.register(unasked.log_all)


def register(engine: Any) -> None:
    """Have `engine` taken care of at exit and at a fork, as long as it lives."""
    _engines[id(engine)] = engine
    _tell_registered(engine)
    if not _is_hooked:
        _hook()
    if _is_ending and hasattr(engine, "hurry"):
        engine.hurry()  # made by a batch that runs at the end


def after_register(hook: Callable[[Any], None]) -> None:
    """Call `hook` with whatever is registered, now or later, and anew in a forked child."""
    _register_hooks.append(hook)
    for engine in all_engines():
        hook(engine)


def _tell_registered(engine: Any) -> None:
    for hook in _register_hooks:
        hook(engine)


def hold(engine: Any) -> None:
    """Keep `engine`, though nobody else may: its items are run at the end of the process."""
    _held.add(engine)


def let_go(engine: Any) -> None:
    """End what `hold` began."""
    _held.discard(engine)


def is_forking() -> bool:
    """Does this thread fork, and hold the engines' locks?"""
    return threading.get_ident() in _locked


def all_engines() -> list[Any]:
    """Everything that was registered and lives: engines, and who makes them."""
    # One C call lists them: between two steps through a set other threads may add and take out,
    # so that the steps pass one by.
    return [engine for weak in _engines.valuerefs() if (engine := weak()) is not None]


def after_fork_in_child(hook: Callable[[], None]) -> None:
    """Call `hook()` in each forked child."""
    _child_hooks.append(hook)


def after_last_look(hook: Callable[[], None]) -> None:
    """Call `hook()` once the exit hook has run for the last time; later calls may come too late."""
    _last_hooks.append(hook)


def must_caller_work() -> bool:
    """Return True if a caller must run its batch itself where no thread can start.

    That is so during exit, but not in the main thread: a hung batch would hold it for longer than
    `exit_timeout`.
    """
    return _is_ending and threading.get_ident() != threading.main_thread().ident


def _hook() -> None:
    global _is_hooked, _is_ending
    _is_hooked = True
    atexit.register(_look_for_the_last_time)
    if getattr(threading, "_SHUTTING_DOWN", False):  # perhaps decorated in an `atexit` function
        _is_ending = True
    elif hasattr(threading, "_shutdown"):
        _come_before_threading()
    _come_before_multiprocessing()


def _come_before_threading() -> None:
    """Run the exit hook before `threading` shuts down.

    `threading._register_atexit` would be too late: it calls the last function first, and thread and
    process pools register theirs when they are imported. It also refuses the pools that a batch
    imports during exit. The interpreter and `multiprocessing` look `_shutdown` up by its name, and
    gevent replaces it in the same way. gh-86128 asks for a public hook.
    """
    shutdown = threading._shutdown  # type: ignore[attr-defined]

    def run_and_shut_down() -> None:
        try:
            _at_exit()
        finally:
            shutdown()

    threading._shutdown = run_and_shut_down  # type: ignore[attr-defined]


def _come_before_multiprocessing() -> None:
    """Run the exit hook before `multiprocessing` ends the queues and pools of a child process.

    Up to CPython 3.12 the child does that before it shuts `threading` down. A new child forgets all
    finalizers and then calls the functions of `register_after_fork`, so both are needed.
    """
    global _is_before_multiprocessing
    util: Any = sys.modules.get("multiprocessing.util")
    if hasattr(util, "Finalize") and not _is_before_multiprocessing:
        _is_before_multiprocessing = True
        util.register_after_fork(_add_finalizer, _add_finalizer)
        _add_finalizer(_add_finalizer)


def _add_finalizer(_: object) -> None:
    util: Any = sys.modules["multiprocessing.util"]
    util.Finalize(None, _at_exit, exitpriority=sys.maxsize)


if hasattr(os, "register_at_fork"):
    # The child should not see a change that another thread is in the middle of. So a fork holds
    # the locks of all engines, if they are to be had; `forked` bears it if not.
    _PATIENCE = 2.0  # seconds; a finalizer that holds one may hang
    _AT_ONCE = 0.3  # of these, for one lock

    def _before_fork() -> None:
        held: list[Any] = []
        me = threading.get_ident()
        _locked[me] = [*_locked.get(me, []), held]  # one store, as a finalizer may fork here
        end = monotonic() + _PATIENCE
        while not _take_locks(held, _AT_ONCE):
            if monotonic() > end:
                _take_locks(held, 0.0)
                return
            # A finalizer that holds the one waits for another, which is held here: let it go on.
            _let_locks_go(held)
            time.sleep(0.01)

    def _take_locks(held: list[Any], patience: float) -> bool:
        """Take the locks of all engines, also of those that are made meanwhile.

        Args:
            held: where those that are taken are noted.
            patience: seconds for each; 0 leaves out those that are not free.

        Returns:
            False when one was not to be had.
        """
        known: set[Any] = set()
        while new := [e._lock for e in all_engines() if e._lock not in known]:
            for lock in new:
                known.add(lock)
                held.append(lock)  # first: a signal handler may raise at any instant
                if not lock.acquire(timeout=patience):
                    held.pop()
                    if patience:
                        return False
        return True

    def _let_locks_go(held: list[Any]) -> None:
        while held:
            if held[-1]._is_owned():
                held[-1].release()
            held.pop()

    def _after_fork() -> None:
        me = threading.get_ident()
        forks = _locked.get(me, [[]])
        try:
            _let_locks_go(forks[-1])
        finally:
            _let_locks_go(forks[-1])  # what a signal handler that raised has left
            forks.pop()
            if not forks:
                _locked.pop(me, None)
            for engine in all_engines():  # for finalizers and handlers that called meanwhile
                if getattr(engine, "_nested", None):
                    engine._look_again()

    def _meet_signals() -> None:
        """Where a signal that came during the fork is handled, before the locks are let go."""

    def _forked() -> None:
        global _is_ending, _held
        _is_ending = False
        if _is_hooked:
            _come_before_multiprocessing()
        _locked.clear()  # the engines get new locks
        _held = set()  # a new one: see `Engine.forked`
        waits.forget()
        unasked.forget_all()
        for hook in _child_hooks:
            hook()
        for engine in all_engines():
            engine.forked()
            _tell_registered(engine)

    os.register_at_fork(after_in_parent=_meet_signals)
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_forked)


def _at_exit() -> None:
    """Run what was accepted, as long as each function's `exit_timeout` allows."""
    global _is_ending
    _is_ending = True
    try:
        _run_what_is_left()
    finally:
        # Now, as others may run there, too: what hangs would hold the process for ever.
        for engine in all_engines():
            executor_runner = getattr(engine, "executor_runner", None)
            if executor_runner is not None:
                executor_runner.abandon()
        if _is_multiprocessing_child():
            unasked.log_all()


def _is_multiprocessing_child() -> bool:
    """Return True if this process may end without a call of the `atexit` functions."""
    process = sys.modules.get("multiprocessing.process")
    return process is not None and process.parent_process() is not None


def _look_for_the_last_time() -> None:
    try:
        _at_exit()
    finally:
        for hook in _last_hooks:
            hook()


def _run_what_is_left() -> None:
    began = monotonic()
    before: dict[int, int] | None = None
    while True:
        working = [engine for engine in all_engines() if hasattr(engine, "hurry")]
        for engine in working:
            if not can_run(engine):
                give_up(engine)
        # A batch may submit to another function: look until nothing is left anywhere.
        left = [(engine, _hurry(engine)) for engine in working if can_run(engine)]
        left = [(engine, futures) for engine, futures in left if futures]
        if not left:
            before, last = batches_of(working), before
            if before == last:
                return
            most = max((engine.options.exit_timeout for engine in working), default=0.0)
            if monotonic() - began > most:
                for engine in working:
                    give_up(engine)
                return
        for engine, futures in left:
            end = began + engine.options.exit_timeout
            for future in futures:
                try:
                    _wait(engine, future, end)
                except TimeoutError:
                    if future.done():
                        continue
                    give_up(engine)
                    break
                except Exception:
                    continue


def _wait(engine: Any, future: Any, end: float) -> None:
    """Until it is done, or safe without this process: nobody tells of that."""
    while not engine.is_safe(future):
        left = max(0.0, end - monotonic())
        try:
            future._wait(min(left, engine.LOOK))
            return
        except TimeoutError:
            if left <= engine.LOOK and not engine.is_safe(future):
                raise


def batches_of(engines: list[Any]) -> dict[int, int]:
    """How many batches each has run so far.

    Engines are looked at one after the other, and an item may go from one to another meanwhile. If
    two looks in a row found nothing, and no batch was run in between, there was nothing anywhere.
    """
    return {id(engine): engine.counts.reasons.total() for engine in engines}


def _hurry(engine: Any) -> Any:
    """The futures to wait for; no thread to be had for one function must not harm the others."""
    try:
        return engine.hurry()
    except RuntimeError:
        give_up(engine)
        return []


def can_run(engine: Any) -> bool:
    """A loop that does not run now has nobody left to run it; the one in the background has."""
    port = getattr(engine, "port", None)
    return port is None or engine.home is not None or port.loop.is_running()


def give_up(engine: Any) -> None:
    """End what is left in `Closed`, and say so."""
    count = engine.closed()
    if count:
        told = (
            f"{engine.options.name}: {items(count)} failed with Closed, because process exit "
            f"waits for at most exit_timeout ({engine.options.exit_timeout:g} s)"
        )
        try:
            warnings.warn(told, RuntimeWarning, stacklevel=2)
        except RuntimeWarning:  # made an error; the others must come to their end all the same
            log.error("%s", told)
