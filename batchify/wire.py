"""What is sent between machines: items, results and errors, as bytes.

An error is sent as a description, never as a pickled object, unless pickle was asked for: where it
arrives, its type is looked for among the modules that are imported there, and made without running
its `__init__`. So what comes from a broker runs no code and imports nothing.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import pickle
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

from .errors import BatchAborted
from .future import Failure
from .options import kind
from .outcome.copies import built_in_fields_of, constructed
from .remote import where

MOST_CAUSES = 5  # that an error takes with it, one of the other


class Serializer(Protocol):
    """Turns plain values into bytes, and back."""

    def dumps(self, value: Any, /) -> bytes | str:
        """`value` as bytes, or as text."""
        ...

    def loads(self, data: bytes, /) -> Any:
        """What `dumps` was given."""
        ...


class _Json:
    @staticmethod
    def dumps(value: Any) -> str:
        return json.dumps(value, separators=(",", ":"))

    @staticmethod
    def loads(data: bytes) -> Any:
        return json.loads(data)


class _Pickle:
    @staticmethod
    def dumps(value: Any) -> bytes:
        return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)

    @staticmethod
    def loads(data: bytes) -> Any:
        return pickle.loads(data)


class TooLong(ValueError):
    """What was written has more bytes than the broker takes."""


class Wire:
    """How the items and the outcomes of one broker are written.

    Args:
        serializer: "json"; "pickle", which runs what the payload says and is for trusted brokers
            only; "msgpack", where that is installed; or anything with `dumps` and `loads`.
        most: the most bytes that the broker takes for one item, or one outcome.

    Raises:
        ImportError: msgpack is not installed.
        TypeError: it is none of these.
        ValueError: no serializer has that name.
    """

    def __init__(self, serializer: str | Serializer, most: int) -> None:
        self.most = most
        self.is_pickle = serializer == "pickle"
        self._serializer: Any = _serializer(serializer)

    def _dumps(self, value: Any) -> bytes:
        data = self._serializer.dumps(value)
        return data.encode() if isinstance(data, str) else bytes(data)

    def _fitting(self, payload: bytes) -> bytes:
        if len(payload) > self.most:
            raise TooLong(f"it takes {len(payload)} bytes, the broker takes {self.most} at most")
        return payload

    # ---- items ----

    def pack(self, item: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """One call.

        Raises:
            ValueError: it has too many bytes.
            Exception: what the serializer raises for what it has no form for.
        """
        call = [item, list(args), kwargs] if args or kwargs else [item]
        return self._fitting(self._dumps(call))

    def unpack(self, payload: bytes) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """What `pack` was given."""
        call: list[Any] = self._serializer.loads(payload)
        if len(call) == 1:
            return call[0], (), {}
        item, args, kwargs = call
        return item, tuple(args), kwargs

    # ---- outcomes ----
    # The first byte tells the form. An error is described in JSON, whatever results are written in.

    def pack_result(self, value: Any, name: str = "a batched function") -> bytes:
        """A result; an error instead, where it has no form, or is too long."""
        try:
            return self._fitting(_RESULT + self._dumps(value))
        except Exception as error:
            told = str(error) if isinstance(error, TooLong) else f"{kind(error)} while writing it"
            return self.pack_error(BatchAborted(f"{name}: the result cannot be sent: {told}"), name)

    def pack_error(self, error: BaseException, name: str = "a batched function") -> bytes:
        """An error."""
        if self.is_pickle:
            with contextlib.suppress(Exception):
                return self._fitting(_PICKLED + _Pickle.dumps(error))
        try:
            return self._fitting(_DESCRIBED + _Json.dumps(described(error)).encode())
        except Exception:  # what it holds has no end, or no form, or is too long
            told = described(BatchAborted(f"{name}: the batch raised {kind(error)}"))
            return _DESCRIBED + _Json.dumps(told).encode()

    def unpack_outcome(self, payload: bytes, name: str = "a batched function") -> Any:
        """A result, or a `Failure`."""
        form, data = payload[:1], payload[1:]
        try:
            if form == _RESULT:
                return self._serializer.loads(data)
            if form == _PICKLED and self.is_pickle:
                return Failure(_presentable(_Pickle.loads(data), name))
            return Failure(_presentable(rebuilt(_Json.loads(data), name), name))
        except Exception as error:
            return Failure(BatchAborted(f"{name}: the outcome cannot be read: {kind(error)}"))


_RESULT, _DESCRIBED, _PICKLED = b"r", b"e", b"p"


def _serializer(given: Any) -> Any:
    if isinstance(given, str):
        if given == "json":
            return _Json
        if given == "pickle":
            return _Pickle
        if given == "msgpack":
            msgpack = _msgpack()
            return _Functions(msgpack.packb, msgpack.unpackb)
        raise ValueError(f'serializer must be "json", "pickle" or "msgpack", got {given!r}')
    if not (callable(getattr(given, "dumps", None)) and callable(getattr(given, "loads", None))):
        raise TypeError(f"serializer must be a name, or have dumps and loads, got {kind(given)}")
    return given


def _msgpack() -> Any:
    try:
        return importlib.import_module("msgpack")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'serializer="msgpack" needs msgpack: pip install msgpack', name=error.name
        ) from None


class _Functions:
    def __init__(self, dumps: Callable[[Any], bytes], loads: Callable[[bytes], Any]) -> None:
        self.dumps = dumps
        self.loads = loads


# ---- errors ----


def described(error: BaseException, depth: int = 0) -> dict[str, Any]:
    """An error in plain values: its type, what it says, its notes and its cause."""
    told: dict[str, Any] = {"module": type(error).__module__, "name": type(error).__qualname__}
    told["text"] = _text_of(error)
    if _is_plain(error.args):
        told["args"] = list(error.args)
    fields = {}  # stored in C, such as the `name` of an ImportError
    for name, field in built_in_fields_of(type(error)).items():
        value = None
        with contextlib.suppress(AttributeError):  # not set
            value = field.__get__(error)
        if value is not None and _is_plain(value):
            fields[name] = value
    if fields:
        told["fields"] = fields
    state = {name: value for name, value in error.__dict__.items() if _is_plain(value)}
    frames = where(error) if depth == 0 else ""  # a traceback cannot be sent
    if frames:
        state["__notes__"] = [*state.get("__notes__", []), f"in another process:\n{frames}"]
    if state:
        told["state"] = state
    if error.__cause__ is not None and depth < MOST_CAUSES:
        told["cause"] = described(error.__cause__, depth + 1)
    return told


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""


def _is_plain(value: Any) -> bool:
    """Would every serializer give it back as it is? (A tuple counts: it comes back as a list.)"""
    if isinstance(value, (list, tuple)):
        return all(_is_plain(one) for one in value)
    if type(value) is dict:
        return all(type(key) is str and _is_plain(one) for key, one in value.items())
    return type(value) in (str, int, float, bool, type(None))


def rebuilt(told: Any, name: str = "a batched function") -> BaseException:
    """The error of a description; `BatchAborted` where its type is not known here."""
    try:
        found = _class_of(told["module"], told["name"])
        error = BatchAborted(f"{name}: the batch raised {told['name']}: {told['text']}")
        if found is not None and "args" in told:
            made = _made(found, tuple(told["args"]), told.get("state", {}), told.get("fields", {}))
            error = made or error
        if "cause" in told:
            error.__cause__ = rebuilt(told["cause"], name)
        return error
    except Exception as fault:
        return BatchAborted(f"{name}: the error of the batch cannot be read: {kind(fault)}")


def _class_of(module: str, name: str) -> type[BaseException] | None:
    found: Any = sys.modules.get(module)
    for part in name.split("."):  # no `getattr`: it may import, or run what a class says
        found = vars(found).get(part) if isinstance(found, (ModuleType, type)) else None
    is_error = isinstance(found, type) and issubclass(found, BaseException)
    return found if is_error else None


def _made(
    found: type[BaseException], args: tuple[Any, ...], state: dict[str, Any], fields: dict[str, Any]
) -> Any:
    """Return an exception of that type and content, made without code of its class, or None."""
    try:
        made = constructed(found, args)
        if "__notes__" in state:
            state["__notes__"] = [str(note) for note in state["__notes__"]]
        made.__dict__.update(state)
        known = built_in_fields_of(found)
        for name, value in fields.items():
            known[name].__set__(made, value)
    except Exception:
        return None
    return made


def _presentable(error: Any, name: str) -> Exception:
    """What a future can carry."""
    if isinstance(error, Exception) and not isinstance(error, (StopIteration, StopAsyncIteration)):
        return error
    return BatchAborted(f"{name}: the batch gave {kind(error)} where an error was expected")
