"""Encoded values come back unchanged, and decoding runs no code."""

from __future__ import annotations

import json
import pickle
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchify import BadResult, BatchAborted, MissingResult
from batchify.codec import Codec, decode_error, encode_error
from batchify.future import Failure

MOST = 1 << 20  # bytes

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ERRORS = [
    ValueError, KeyError, LookupError, OSError, RuntimeError, BadResult, MissingResult,
    UnicodeDecodeError, ExceptionGroup,
]  # fmt: skip


@given(
    plain,
    st.lists(st.text() | st.integers(), max_size=3),
    st.dictionaries(st.text(), st.integers()),
)
def test_calls_come_back_as_they_were(item: Any, args: list[Any], kwargs: dict[str, Any]) -> None:
    codec = Codec("json", MOST)
    assert codec.unpack(codec.pack(item, tuple(args), kwargs)) == (item, tuple(args), kwargs)


@given(plain)
def test_results_come_back_as_they_were(value: Any) -> None:
    codec = Codec("json", MOST)
    assert codec.unpack_outcome(codec.pack_result(value)) == value


@pytest.mark.parametrize("name", ["json", "pickle"])
@given(kind=st.sampled_from(ERRORS), args=st.lists(plain, max_size=3), note=st.text())
def test_errors_come_back_as_they_were(
    name: str, kind: type[Exception], args: list[Any], note: str
) -> None:
    try:
        error = kind(*args)
    except (TypeError, ValueError):
        return  # it wants others
    error.add_note(note)
    error.__cause__ = StopIteration(1)
    codec = Codec(name, MOST)
    told = codec.unpack_outcome(codec.pack_error(error))
    assert type(told) is Failure
    assert isinstance(told.error, kind)
    assert told.error.args == error.args
    assert str(told.error) == str(error)
    assert told.error.__notes__[0] == note
    if name == "json":
        assert type(told.error.__cause__) is StopIteration


class Loud(Exception):
    """An error that says when its code runs."""

    def __init__(self, *args: Any, fuse: bool = True) -> None:
        assert not fuse
        super().__init__(*args)


class Secret(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def test_no_code_of_an_error_runs() -> None:
    made = decode_error(encode_error(Loud(1, [2], fuse=False)))
    assert type(made) is Loud
    assert made.args == (1, [2])
    assert type(decode_error(encode_error(Secret()))) is Secret


class Boom:
    def __reduce__(self) -> Any:
        return (sys.exit, (3,))


def told_of(**description: Any) -> bytes:
    return b"e" + json.dumps({"text": "", **description}).encode()


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"x",
        b"e",
        b"e{",
        b"enull",
        b"e[]",
        b"r{",
        b"p" + pickle.dumps(Boom()),
        told_of(module="os", name="system", args=["false"]),
        told_of(module="antigravity", name="Error", args=[]),
        told_of(module="builtins", name="int", args=[1]),
        told_of(module="builtins", name="OSError", args=7),
        told_of(module=1, name=2, args=[]),
        told_of(module="concurrent.futures", name="ProcessPoolExecutor", args=[]),
        told_of(module="builtins", name="OSError", args=[], state={"__notes__": 5}),
    ],
)
def test_an_invalid_payload_is_an_error_and_runs_nothing(payload: bytes) -> None:
    told = Codec("json", MOST).unpack_outcome(payload)
    assert type(told) is Failure
    assert type(told.error) is BatchAborted
    assert "antigravity" not in sys.modules


def test_fields_of_errors_stored_in_c_come_back() -> None:
    for error in (
        ImportError("no", name="a", path="b"), FileNotFoundError(2, "not there", "c"),
        SyntaxError("no", ("file", 1, 2, "text")),
    ):  # fmt: skip
        made = decode_error(encode_error(error))
        assert type(made) is type(error)
        assert str(made) == str(error)
        for name in ("name", "path", "errno", "filename", "lineno"):
            assert getattr(made, name, None) == getattr(error, name, None)


def test_an_error_that_is_none_for_a_future_is_wrapped() -> None:
    for name in ("json", "pickle"):
        codec = Codec(name, MOST)
        for error in (SystemExit(3), StopIteration(), KeyboardInterrupt()):
            told = codec.unpack_outcome(codec.pack_error(error))
            assert type(told.error) is BatchAborted
    assert type(Codec("pickle", MOST).unpack_outcome(b"p" + pickle.dumps(1)).error) is BatchAborted


def test_a_chain_of_causes_has_an_end() -> None:
    error = ValueError(0)
    for n in range(1, 100):
        link = ValueError(n)
        link.__cause__ = error
        error = link
    told: BaseException | None = decode_error(encode_error(error))
    count = 0
    while told is not None:
        told, count = told.__cause__, count + 1
    assert 1 < count < 10


def test_serializers_are_named_or_have_both_ways() -> None:
    with pytest.raises(ValueError, match="yaml"):
        Codec("yaml", MOST)
    with pytest.raises(TypeError, match="dumps"):
        Codec(object(), MOST)  # type: ignore[arg-type]
    codec = Codec(json, MOST)
    assert codec.unpack_outcome(codec.pack_result([1])) == [1]
    told = codec.unpack_outcome(codec.pack_result(object()))
    assert type(told.error) is BatchAborted
    assert "object" not in str(told.error)


def test_msgpack() -> None:
    pytest.importorskip("msgpack")
    codec = Codec("msgpack", MOST)
    assert codec.unpack(codec.pack(b"a", (1,), {})) == (b"a", (1,), {})
    assert codec.unpack_outcome(codec.pack_result({"a": b"b"})) == {"a": b"b"}


def test_values_that_are_too_long_are_refused_before_they_are_sent() -> None:
    codec = Codec("json", max_bytes=1000)
    item = "x" * 996
    assert codec.unpack(codec.pack(item, (), {})) == (item, (), {})
    with pytest.raises(ValueError, match="1000 at most"):
        codec.pack(item + "x", (), {})
    assert len(codec.pack_result("x" * 997)) == 1000
    told = codec.unpack_outcome(codec.pack_result("x" * 998))
    assert type(told.error) is BatchAborted
    assert "1000 at most" in str(told.error)
    for name in ("json", "pickle"):
        packed = Codec(name, max_bytes=1000).pack_error(ValueError("x" * 1000))
        assert len(packed) <= 1000
        told = codec.unpack_outcome(packed)
        assert type(told.error) is BatchAborted
        assert "ValueError" in str(told.error)
