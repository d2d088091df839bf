"""Encode items, results and errors as bytes for a broker, and decode them.

Unless the serializer is pickle, decoding runs no code and imports nothing: an error is sent as a
description of its type and content. The receiver looks for the type in the modules that it has
already imported, and creates the exception without running its `__init__`.
Callers are brokers, their workers, and the engine that sends items to them.
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
from .remote import frames_of

MAX_CAUSES = 5  # the length of the chain of causes that is sent with an error


class Serializer(Protocol):
    """Converts plain values to bytes and back."""

    def dumps(self, value: Any, /) -> bytes | str:
        """Return `value` as bytes or text."""
        ...

    def loads(self, data: bytes, /) -> Any:
        """Return the value that `dumps` converted to `data`."""
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
    """An encoded item or outcome has more bytes than the broker accepts."""


class Codec:
    """Encodes and decodes the items and outcomes of one broker.

    Args:
        serializer: "json"; "msgpack", if that is installed; "pickle", for trusted brokers only,
            because decoding a pickle can run any code; or an object with `dumps` and `loads`.
        max_bytes: the maximum number of bytes of one encoded item or outcome.

    Raises:
        ImportError: msgpack is not installed.
        TypeError: `serializer` is neither a name nor an object with `dumps` and `loads`.
        ValueError: no serializer has that name.
    """

    def __init__(self, serializer: str | Serializer, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.is_pickle = serializer == "pickle"
        self._serializer: Any = _serializer(serializer)

    def _dumps(self, value: Any) -> bytes:
        data = self._serializer.dumps(value)
        return data.encode() if isinstance(data, str) else bytes(data)

    def _checked(self, payload: bytes) -> bytes:
        if len(payload) > self.max_bytes:
            raise TooLong(
                f"it takes {len(payload)} bytes, the broker accepts {self.max_bytes} at most"
            )
        return payload

    # ---- items ----

    def pack(self, item: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """Return one call as bytes.

        Raises:
            ValueError: the call takes too many bytes.
            Exception: the serializer cannot convert the item or an argument.
        """
        call = [item, list(args), kwargs] if args or kwargs else [item]
        return self._checked(self._dumps(call))

    def unpack(self, payload: bytes) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """Return the item and the extra arguments that `pack` converted to `payload`."""
        call: list[Any] = self._serializer.loads(payload)
        if len(call) == 1:
            return call[0], (), {}
        item, args, kwargs = call
        return item, tuple(args), kwargs

    # ---- outcomes ----
    # The first byte is the format. A description of an error is JSON with every serializer.

    def pack_result(self, value: Any, name: str = "a batched function") -> bytes:
        """Return a result as bytes, or `BatchAborted` if it cannot be converted or is too long."""
        try:
            return self._checked(_RESULT + self._dumps(value))
        except Exception as error:
            why = str(error) if isinstance(error, TooLong) else f"{kind(error)} while encoding it"
            return self.pack_error(BatchAborted(f"{name}: the result cannot be sent: {why}"), name)

    def pack_error(self, error: BaseException, name: str = "a batched function") -> bytes:
        """Return an error as bytes, or a `BatchAborted` that names its type if that fails."""
        if self.is_pickle:
            with contextlib.suppress(Exception):
                return self._checked(_PICKLED + _Pickle.dumps(error))
        try:
            return self._checked(_DESCRIBED + _Json.dumps(encode_error(error)).encode())
        except Exception:  # its content is cyclic, not representable in JSON, or too long
            described = encode_error(BatchAborted(f"{name}: the batch raised {kind(error)}"))
            return _DESCRIBED + _Json.dumps(described).encode()

    def unpack_outcome(self, payload: bytes, name: str = "a batched function") -> Any:
        """Return the result that `payload` encodes, or a `Failure`."""
        form, data = payload[:1], payload[1:]
        try:
            if form == _RESULT:
                return self._serializer.loads(data)
            if form == _PICKLED and self.is_pickle:
                return Failure(_presentable(_Pickle.loads(data), name))
            return Failure(_presentable(decode_error(_Json.loads(data), name), name))
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


def encode_error(error: BaseException, depth: int = 0) -> dict[str, Any]:
    """Return a description of an error in plain values: its type, text, content and causes.

    Args:
        error: the exception.
        depth: its position in the chain of causes: 0 for the error itself.
    """
    data: dict[str, Any] = {"module": type(error).__module__, "name": type(error).__qualname__}
    data["text"] = _text_of(error)
    if _is_plain(error.args):
        data["args"] = list(error.args)
    fields = {}  # stored in C, such as the `name` of an ImportError
    for name, field in built_in_fields_of(type(error)).items():
        value = None
        with contextlib.suppress(AttributeError):  # not set
            value = field.__get__(error)
        if value is not None and _is_plain(value):
            fields[name] = value
    if fields:
        data["fields"] = fields
    state = {name: value for name, value in error.__dict__.items() if _is_plain(value)}
    frames = frames_of(error) if depth == 0 else ""  # a traceback cannot be sent
    if frames:
        state["__notes__"] = [*state.get("__notes__", []), f"in another process:\n{frames}"]
    if state:
        data["state"] = state
    if error.__cause__ is not None and depth < MAX_CAUSES:
        data["cause"] = encode_error(error.__cause__, depth + 1)
    return data


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""


def _is_plain(value: Any) -> bool:
    """Return True if JSON preserves `value`; tuples count, although they become lists."""
    if isinstance(value, (list, tuple)):
        return all(_is_plain(one) for one in value)
    if type(value) is dict:
        return all(type(key) is str and _is_plain(one) for key, one in value.items())
    return type(value) in (str, int, float, bool, type(None))


def decode_error(data: Any, name: str = "a batched function") -> BaseException:
    """Return the exception that `encode_error` described, or `BatchAborted` for an unknown type.

    Args:
        data: the description.
        name: the name of the batched function, for messages.
    """
    try:
        found = _class_of(data["module"], data["name"])
        error = BatchAborted(f"{name}: the batch raised {data['name']}: {data['text']}")
        if found is not None and "args" in data:
            made = _made(found, tuple(data["args"]), data.get("state", {}), data.get("fields", {}))
            error = made or error
        if "cause" in data:
            error.__cause__ = decode_error(data["cause"], name)
        return error
    except Exception as fault:
        return BatchAborted(f"{name}: the error of the batch cannot be read: {kind(fault)}")


def _class_of(module: str, name: str) -> type[BaseException] | None:
    found: Any = sys.modules.get(module)
    for part in name.split("."):  # not `getattr`, which may import, or run code
        found = vars(found).get(part) if isinstance(found, (ModuleType, type)) else None
    is_error = isinstance(found, type) and issubclass(found, BaseException)
    return found if is_error else None


def _made(
    found: type[BaseException], args: tuple[Any, ...], state: dict[str, Any], fields: dict[str, Any]
) -> Any:
    """Return an exception made without code of its class, or None if that fails."""
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
    """Return `error`, or `BatchAborted` if a future cannot hold it."""
    if isinstance(error, Exception) and not isinstance(error, (StopIteration, StopAsyncIteration)):
        return error
    return BatchAborted(f"{name}: the batch failed with {kind(error)}, which a future cannot hold")
