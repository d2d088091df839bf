"""`f.options(...)`: a batched function with options for the calls made through this view.

A view is immutable and keeps nothing but the function and what was asked for.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from .finalizing import refuse_when_finalizing
from .options import Options

if TYPE_CHECKING:
    from .bulk import How
    from .calls import Calls
    from .future import BatchFuture

# The default of the item, so that a call without one gets an error that names the function.
MISSING: Any = object()


class Asked(NamedTuple):
    """What a call asks for; times are seconds."""

    timeout: float | None = None
    deadline: float | None = None
    priority: float = 0


NOTHING_ASKED = Asked()


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

        how = self._how("map", ordered, window, return_exceptions, progress, unknown)
        submitter: Any = self
        return mapped(submitter, items, how)

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

        how = self._how("amap", ordered, window, return_exceptions, progress, unknown)
        submitter: Any = self
        return amapped(submitter, items, how)

    def _how(
        self,
        call: str,
        ordered: object,
        window: object,
        return_exceptions: object,
        progress: object,
        unknown: dict[str, Any],
    ) -> How:
        """Check the arguments of `map` or `amap`, which `call` names."""
        from .bulk import How

        if unknown:
            from .hints import MAP_ARGUMENTS, unknown_argument

            raise unknown_argument(f"{self._options().name}.{call}()", unknown, MAP_ARGUMENTS)
        return How.checked(ordered, window, return_exceptions, progress, self._options())


class CallOptions(Maps):
    """A batched function, with options for the calls made through this view."""

    __slots__ = ("_asked", "_calls")

    def __init__(self, calls: Calls, asked: Asked) -> None:
        self._calls = calls
        self._asked = asked

    def __repr__(self) -> str:
        asked = zip(Asked._fields, self._asked, NOTHING_ASKED, strict=True)
        shown = ", ".join(f"{name}={value:g}" for name, value, default in asked if value != default)
        return f"<options({shown}) of {self._calls!r}>"

    def __call__(self, item: Any = MISSING, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Submit one item; see `Calls.submit`."""
        if item is MISSING:
            raise self._calls._no_item()
        return self._calls._submit(item, args, kwargs, self._asked)

    submit = __call__

    def submit_nowait(self, item: Any = MISSING, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Submit one item without ever waiting for capacity; see `Calls.submit_nowait`."""
        if item is MISSING:
            raise self._calls._no_item(".submit_nowait")
        return self._calls._submit(item, args, kwargs, self._asked, wait=False)

    async def asubmit(self, item: Any = MISSING, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
        """Wait for capacity without blocking the loop, submit, and return the future."""
        if item is MISSING:
            raise self._calls._no_item(".asubmit")
        return await self._calls._asubmit(item, args, kwargs, self._asked)

    # ---- as `map` and `amap` use it ----

    def _options(self) -> Options:
        return self._calls._options()

    def _submit(self, item: Any, args: Any, kwargs: Any) -> BatchFuture[Any]:
        return self._calls._submit(item, args, kwargs, self._asked)

    async def _asubmit(self, item: Any, args: Any, kwargs: Any) -> BatchFuture[Any]:
        return await self._calls._asubmit(item, args, kwargs, self._asked)

    def _chunks(self, chunks: list[list[Any]]) -> list[BatchFuture[Any]]:
        if self._asked.priority or self._asked.deadline is not None:
            return []  # each item has its own place in the queue
        return self._calls._chunks(chunks)  # as far as there is capacity: no timeout to respect

    def _push(self) -> None:
        self._calls._push()
