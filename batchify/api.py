"""The decorator `batched`, as it runs. Type checkers see the declarations of `static` instead.

It only checks its arguments. `decorator.Batched` does the rest.
Exported by `batchify`.
"""

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

        Calls from any number of threads and event loops are collected into batches. Each caller
        gets a `BatchFuture` with the result, or the error, of its own item.

        Args:
            func: The function, method, class method or static method to decorate. A `def` function
                runs in worker threads, an `async def` function on the caller's event loop. It
                takes a list of items and returns one result per item: a sequence in the same
                order, a mapping `{item: result}`, a generator, or None.
            size: Maximum number of items in a batch, an integer >= 1. Default: 64. Other libraries
                call it `max_batch_size`.
            linger: Maximum time, in seconds or as a timedelta, that the oldest item waits for its
                batch to fill. With 0, the default, a free worker takes at once what is queued, and
                items that arrive while all workers are busy form the next batch. With None, a
                batch is dispatched only when it is full, flushed or closed.
            workers: Maximum number of batches that run at the same time, an integer >= 1. Default:
                1. For `async def` the limit applies to each event loop. With `linger=0`, more
                workers make smaller batches, because a free worker takes items that would
                otherwise have joined the next batch.
            capacity: Maximum number of pending items, queued or running, an integer >= `size`.
                Default: 10 000, or `2 * size * workers` if that is larger. None means no limit.
                For `async def` the limit applies to each event loop. If the queue is full, a call
                in a thread blocks, and callers are served in order of arrival; on an event loop
                the call returns at once, and its future waits for capacity.
            key: Function `key(item)` that returns something hashable. Only items with equal keys
                share a batch. If batches of several keys are ready, the one with the oldest item
                is dispatched first. Default: None, all items may share a batch.
            weight: Function `weight(item)` that returns a number >= 0, for example the length of a
                text. Needs `max_weight`. Default: None, items have no weight.
            max_weight: Maximum sum of the weights in a batch, a number > 0. Needs `weight`. An item
                that does not fit stays at the front of the queue for the next batch; an item that
                alone weighs more is refused with `ItemTooHeavy`. Default: None.
            dedupe: True, or a function of an item that returns something hashable. Items of a batch
                that are equal in value and type are passed to the function once, and every caller
                still has its own future. Default: False.
            isolate: If True and a batch raises, it is split in halves, and these run again, until
                only the items at fault fail. Use it only if the function may be called again with
                the same items. If all four quarters fail with the same type of error, batchify
                assumes an outage and stops calling. Default: False.
            on_error: Function `on_error(failure)` that is called with a `BatchFailure` for each
                failed batch, or with `isolate` for each part that still fails, before the callers
                get the error. It returns None, or results as the function would. It may be an
                `async def` if the function is one. Default: None.
            executor: A `concurrent.futures.Executor`, or a function without arguments that returns
                one. Batches run there instead of in batchify's threads, at most `workers` at a
                time. The function is called by the first call in each process, and by the first
                call after a `BrokenExecutor` or a `close`. `close` shuts down the executor that it
                returned, unless something else refers to that. Another process gets the module and
                qualified name of the batch function and a pickled list; if the function cannot be
                imported there, the first call raises `ValueError`. For `def` functions only.
                Default: None.
            broker: A durable queue that several machines share, such as
                `batchify.redis.RedisStreams`. Calls store their items there, and worker processes
                (`python -m batchify worker`) run them with all other options. For functions and
                static methods, and not together with `executor`. Default: None.
            exit_timeout: Maximum time, in seconds or as a timedelta, that process exit waits for
                the items of this function. Default: 30. inf means no limit.
            name: Name in thread names, messages, spans and metrics. Default: the qualified name of
                the function.

        Returns:
            The decorated function, a `Batched`; or a decorator, if `func` is not given.

        Raises:
            TypeError: An option has a wrong type or is unknown, or `func` is not a function.
            ValueError: An option has a wrong value.

        Example:
            >>> from batchify import batched
            >>> @batched(size=500, linger=0.01)
            ... def double(numbers: list[int]) -> list[int]:
            ...     return [2 * number for number in numbers]
            >>> double(21).result()  # in a coroutine: await double(21)
            42
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

    # `more` and `unknown` only serve error messages, so documentation does not show them.
    _signature = inspect.signature(batched)
    batched.__signature__ = _signature.replace(
        parameters=[p for p in _signature.parameters.values() if p.name not in ("more", "unknown")]
    )
