"""`f.options(...)`: a batched function with options for the calls made through this view.

A view is immutable and keeps nothing but the function and what was asked for.
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

# The default of the item, so that a call without one gets an error that names the function.
MISSING: Any = object()


class CallSettings(NamedTuple):
    """What a call asks for; times are seconds."""

    timeout: float | None = None
    deadline: float | None = None
    priority: float = 0


DEFAULT_SETTINGS = CallSettings()


class Maps:
    """`map` and `amap`, of a batched function and of a view with options for its calls."""

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
        """Submit every item lazily, and yield the results.

        Args:
            items: any iterable. Of a plain sequence, whole batches are submitted at a time.
            ordered: yield in the order of the items, else as they are done.
            window: the most items that are submitted and not yielded; by default `capacity`.
            return_exceptions: yield errors instead of raising the first one.
            progress: True for a bar by tqdm, where installed, or a function that wraps an
                iterable as tqdm does.

        Returns:
            An iterator. Closing it, or an error of an item, cancels what has not started. An
            error of `items` is raised after the results of the items before it.

        Raises:
            TypeError: an argument has a wrong type.
            ValueError: an argument has a wrong value.
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
        """`map` for iterables and async iterables: an async iterator of the results."""
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
        """Check the arguments of `map` or `amap`, which `call` names."""
        from .bulk import MapOptions

        if unknown:
            from .hints import MAP_ARGUMENTS, unknown_argument

            raise unknown_argument(f"{self._options().name}.{call}()", unknown, MAP_ARGUMENTS)
        return MapOptions.checked(ordered, window, return_exceptions, progress, self._options())


class CallOptions(Maps):
    """A batched function, with options for the calls made through this view."""

    __slots__ = ("_calls", "_settings")

    def __init__(self, calls: Calls, settings: CallSettings) -> None:
        self._calls = calls
        self._settings = settings

    def __repr__(self) -> str:
        settings = zip(CallSettings._fields, self._settings, DEFAULT_SETTINGS, strict=True)
        shown = ", ".join(
            f"{name}={value:g}" for name, value, default in settings if value != default
        )
        return f"<options({shown}) of {self._calls!r}>"

    def __call__(self, item: Any = MISSING, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Submit one item; see `Calls.submit`."""
        if item is MISSING:
            raise self._calls._missing_item_error()
        return self._calls._submit(item, args, kwargs, self._settings)

    submit = __call__

    def submit_nowait(self, item: Any = MISSING, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Submit one item without ever waiting for capacity; see `Calls.submit_nowait`."""
        if item is MISSING:
            raise self._calls._missing_item_error(".submit_nowait")
        return self._calls._submit(item, args, kwargs, self._settings, wait=False)

    async def asubmit(self, item: Any = MISSING, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Wait for capacity without blocking the loop, submit, and return the future."""
        if item is MISSING:
            raise self._calls._missing_item_error(".asubmit")
        return await self._calls._asubmit(item, args, kwargs, self._settings)

    # ---- as `map` and `amap` use it ----

    def _options(self) -> Options:
        return self._calls._options()

    def _submit(self, item: Any, args: Any, kwargs: Any) -> BatchFuture[Any]:
        return self._calls._submit(item, args, kwargs, self._settings)

    async def _asubmit(self, item: Any, args: Any, kwargs: Any) -> BatchFuture[Any]:
        return await self._calls._asubmit(item, args, kwargs, self._settings)

    def _submit_chunks(self, chunks: list[list[Any]]) -> list[BatchFuture[Any]]:
        if self._settings.priority or self._settings.deadline is not None:
            return []  # each item has its own place in the queue
        return self._calls._submit_chunks(
            chunks
        )  # as far as there is capacity: no timeout to respect

    def _dispatch_now(self) -> None:
        self._calls._dispatch_now()
