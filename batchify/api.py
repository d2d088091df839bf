"""`batched`: the decorator, as it runs; `static.py` is what a checker sees of it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from .options import DEFAULT_EXIT_TIMEOUT, DEFAULT_SIZE, UNSET, Options

__all__ = ["Batched", "batched"]

if TYPE_CHECKING:
    from .static import Batched, Decorator

    batched: Decorator

else:
    from .decorator import Batched

    def batched(
        func=None,
        /,
        *more,
        size=DEFAULT_SIZE,
        linger=0.0,
        workers=1,
        capacity=UNSET,
        key=None,
        weight=None,
        max_weight=None,
        dedupe=False,
        isolate=False,
        on_error=None,
        executor=None,
        broker=None,
        exit_timeout=DEFAULT_EXIT_TIMEOUT,
        name=None,
        **unknown,
    ):
        """Turn a function that takes a list into one that is called with one item.

        The calls of any number of threads and event loops are collected into batches, and each
        caller gets a `BatchFuture` with the result, or the error, of its own item::

            @batched(size=500, linger=0.01)
            def insert_users(users: list[User]) -> list[int]: ...

            insert_users(user).result()     # in a thread
            await insert_users(user)        # in a coroutine

        Args:
            func: the function, method, class method or static method; `def` runs in worker
                threads, `async def` on the caller's event loop. It takes a list of items, and
                gives back one result for each: a sequence in the same order, a mapping by item,
                a generator, or None.
            size: the most items in one batch.
            linger: the longest time, in seconds or as a timedelta, that the oldest item waits
                for its batch to fill. 0 never waits: what arrives while all workers are busy
                forms the next batch. None leaves only when full, flushed or closed.
            workers: how many batches may run at the same time (for `async def`: on each loop).
                With `linger=0` more workers make smaller batches, because a free worker takes
                items that would have joined the next batch.
            capacity: the most unresolved items, queued and running (for `async def`: on each
                loop); by default 10 000, or `2 * size * workers` where that is more. None is
                without a bound. When full, a thread blocks, first come first served; on an
                event loop the future waits for its room.
            key: `key(item)`, something hashable: only items of equal keys share a batch. Of the
                keys that are ready, the one with the oldest item leaves first.
            weight, max_weight: `weight(item)`, a number: the weights of a batch add up to at most
                `max_weight`. An item that alone weighs more is refused with `ItemTooHeavy`; one
                that does not fit stays in front, for the next batch.
            dedupe: True, or a function of an item that gives something hashable: items of one
                batch that are equal in value and type reach the function once, and every caller
                has a future of its own.
            isolate: when a batch raises, halve it and run the halves, until only the callers
                whose items are at fault get the error. Only for functions that may be called
                again with the same items. When all four quarters fail alike, that is taken for
                an outage, and nothing more is called.
            on_error: `on_error(failure)` sees each failed batch (a `BatchFailure`) before its
                callers do, or each piece that still fails under `isolate`. It gives back None,
                or what the function might have given back. It may be an async function for an
                async function.
            executor: any `concurrent.futures.Executor`, or a function of no arguments that makes
                one: the batches run there instead of in the workers' own threads, `workers` at
                a time. The function is called by the first call (in each process), again after
                a `BrokenExecutor`, and by the first call after a `close`, which shuts down what it
                made unless something else refers to that. To another process go the function's
                module and qualified name, and a pickled list: by name it must be found there,
                else the first call raises `ValueError`. For `def` only.
            broker: a durable queue that many machines share, such as `batchify.redis.RedisStreams`:
                calls send their items there, and worker processes (`python -m batchify worker`)
                run them, by all the other options. For functions and static methods; not
                together with `executor`.
            exit_timeout: the maximum time in seconds (or a timedelta) that process exit waits for
                this function's items. inf means no limit.
            name: used in thread names and messages; by default the function's qualified name.

        Returns:
            The decorated function (a `Batched`), or a decorator when `func` is not given.

        Raises:
            TypeError: an option has a wrong type or is unknown, or `func` is no function.
            ValueError: an option has a wrong value.
        """
        from dataclasses import replace

        from .decorator import check_function
        from .options import default_name

        if unknown:
            from .hints import unknown_option

            raise unknown_option(unknown)
        if func is not None:
            check_function(func)
        if more:
            raise TypeError("options are given by name: write batched(function, size=500)")
        given = Options.checked(
            size=size,
            linger=linger,
            workers=workers,
            capacity=capacity,
            key=key,
            weight=weight,
            max_weight=max_weight,
            dedupe=dedupe,
            isolate=isolate,
            on_error=on_error,
            executor=executor,
            broker=broker,
            exit_timeout=exit_timeout,
            name=name,
            default_name="" if func is None else default_name(func),
        )
        if func is not None:
            return Batched(func, given)

        def decorator(func):
            check_function(func)
            return Batched(func, given if name else replace(given, name=default_name(func)))

        return decorator

    # Shown without the two that only serve error messages.
    _whole = inspect.signature(batched)
    batched.__signature__ = _whole.replace(
        parameters=[p for p in _whole.parameters.values() if p.name not in ("more", "unknown")]
    )
