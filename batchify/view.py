"""`f.options(...)`: a view of a batched function that applies options to each of its calls.

A view is immutable, and it keeps only the function and the options.
`Calls.options` creates it; `map` and `amap`, which functions and views have in common, are here.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from .finalizing import refuse_when_finalizing
from .options import Options

if TYPE_CHECKING:
    from .bulk import MapOptions
    from .calls import Calls
    from .future import BatchFuture

# The default of the item. A call without an item then raises an error that names the function.
MISSING: Any = object()


class CallSettings(NamedTuple):
    """The options of a call. Times are seconds; None means no limit."""

    timeout: float | None = None
    deadline: float | None = None
    priority: float = 0


DEFAULT_SETTINGS = CallSettings()


class Maps:
    """`map` and `amap`, which a batched function and a view of it have in common."""

    __slots__ = ()

    def _options(self) -> Options:
        raise NotImplementedError

    def map(
        self,
        items: Any,
        *,
        ordered: bool = True,
        window: int | None = None,
        return_exceptions: bool = False,
        progress: Any = False,
        **unknown: Any,
    ) -> Iterator[Any]:
        """Submit the items of an iterable lazily, and yield their results.

        Args:
            items: Any iterable. A list or another sized collection is fastest, because whole
                batches can be submitted at once.
            ordered: If True, results come in the order of the items, else as soon as they are
                done; then return the item with its result to know which is which. Default: True.
            window: Maximum number of items that are submitted but whose results were not yielded
                yet. Default: the `capacity` of the function.
            return_exceptions: If True, yield the exception of a failed item in its place. If False,
                raise the first one. Default: False.
            progress: True for a tqdm bar (needs `batchify-py[progress]`), or a function that wraps
                an iterable as tqdm does. Default: False.

        Returns:
            An iterator of the results. If an item fails or the iterator is closed, items that have
            not started are cancelled. If `items` raises, the results of the items before the error
            are yielded first.

        Raises:
            TypeError: An argument is unknown or has a wrong type.
            ValueError: An argument has a wrong value.

        Example:
            >>> from batchify import batched
            >>> @batched(size=100)
            ... def double(numbers: list[int]) -> list[int]:
            ...     return [2 * number for number in numbers]
            >>> list(double.map(range(5)))
            [0, 2, 4, 6, 8]
        """
        refuse_when_finalizing(self)
        from .mapping import mapped

        options = self._map_options("map", ordered, window, return_exceptions, progress, unknown)
        submitter: Any = self
        return mapped(submitter, items, options)

    def amap(
        self,
        items: Any,
        *,
        ordered: bool = True,
        window: int | None = None,
        return_exceptions: bool = False,
        progress: Any = False,
        **unknown: Any,
    ) -> AsyncGenerator[Any, None]:
        """Do the same as `map` without blocking the event loop.

        Args:
            items: Any iterable or async iterable. An async iterable is read by a task of its own,
                so that waiting for its next item does not delay results.
            ordered: If True, results come in the order of the items, else as soon as they are
                done. Default: True.
            window: Maximum number of items that are submitted but whose results were not yielded
                yet. Default: the `capacity` of the function.
            return_exceptions: If True, yield the exception of a failed item in its place. If False,
                raise the first one. Default: False.
            progress: True for a tqdm bar, or a function that wraps an iterable or an async iterable
                as tqdm does. Default: False.

        Returns:
            An async generator of the results. Close it if you stop early, for example with
            `contextlib.aclosing`; that cancels the items that have not started.

        Raises:
            TypeError: An argument is unknown or has a wrong type.
            ValueError: An argument has a wrong value.

        Example:
            >>> import asyncio
            >>> from batchify import batched
            >>> @batched(size=100)
            ... async def double(numbers: list[int]) -> list[int]:
            ...     return [2 * number for number in numbers]
            >>> async def main() -> list[int]:
            ...     return [result async for result in double.amap(range(5))]
            >>> asyncio.run(main())
            [0, 2, 4, 6, 8]
        """
        from .mapping import amapped

        options = self._map_options("amap", ordered, window, return_exceptions, progress, unknown)
        submitter: Any = self
        return amapped(submitter, items, options)

    def _map_options(
        self,
        call: str,
        ordered: object,
        window: object,
        return_exceptions: object,
        progress: object,
        unknown: dict[str, Any],
    ) -> MapOptions:
        """Check the arguments of `call`, which is "map" or "amap"."""
        from .bulk import MapOptions

        if unknown:
            from .hints import MAP_ARGUMENTS, unknown_argument

            raise unknown_argument(f"{self._options().name}.{call}()", unknown, MAP_ARGUMENTS)
        return MapOptions.checked(ordered, window, return_exceptions, progress, self._options())


class CallOptions(Maps):
    """A view of a batched function that applies options to each call, from `Batched.options`."""

    __slots__ = ("_calls", "_settings")

    def __init__(self, calls: Calls, settings: CallSettings) -> None:
        self._calls = calls
        self._settings = settings

    def __repr__(self) -> str:
        every = zip(CallSettings._fields, self._settings, DEFAULT_SETTINGS, strict=True)
        shown = ", ".join(f"{name}={value:g}" for name, value, default in every if value != default)
        return f"<options({shown}) of {self._calls!r}>"

    def __call__(self, item: Any = MISSING, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Submit one item with the options of this view; see `Batched.submit`."""
        if item is MISSING:
            raise self._calls._missing_item_error()
        return self._calls._submit(item, args, kwargs, self._settings)

    submit = __call__

    def submit_nowait(self, item: Any = MISSING, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Submit one item, but never wait for capacity; see `Batched.submit_nowait`."""
        if item is MISSING:
            raise self._calls._missing_item_error(".submit_nowait")
        return self._calls._submit(item, args, kwargs, self._settings, wait=False)

    async def asubmit(self, item: Any = MISSING, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Wait for capacity without blocking the event loop; see `Batched.asubmit`."""
        if item is MISSING:
            raise self._calls._missing_item_error(".asubmit")
        return await self._calls._asubmit(item, args, kwargs, self._settings)

    # ---- for `map` and `amap` ----

    def _options(self) -> Options:
        return self._calls._options()

    def _submit(self, item: Any, args: Any, kwargs: Any) -> BatchFuture[Any]:
        return self._calls._submit(item, args, kwargs, self._settings)

    async def _asubmit(self, item: Any, args: Any, kwargs: Any) -> BatchFuture[Any]:
        return await self._calls._asubmit(item, args, kwargs, self._settings)

    def _submit_chunks(self, chunks: list[list[Any]]) -> list[BatchFuture[Any]]:
        if self._settings.priority or self._settings.deadline is not None:
            return []  # each item needs its own place in the queue
        # They are submitted only as far as there is capacity, so the timeout does not matter.
        return self._calls._submit_chunks(chunks)

    def _dispatch_now(self) -> None:
        self._calls._dispatch_now()
