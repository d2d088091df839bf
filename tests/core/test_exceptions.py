"""Every caller of a failed batch gets the exception with the same type and content (contract 4).

Each caller has a separate object if the exception can be copied; else all share one.
"""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import pytest

from batchify import BatchAborted, BatchFailure, Retry, RetryExhausted, batched

CALLERS = 3
PATIENCE = 60.0  # seconds; only a hang takes that long


def errors_from(function: Callable[[list[int]], Any], **options: Any) -> list[Any]:
    """Return the exceptions that the callers of one batch get."""
    f = batched(function, size=CALLERS, linger=None, **options)
    futures = [f(n) for n in range(CALLERS)]
    f.flush(PATIENCE)
    errors = [future.exception(PATIENCE) for future in futures]
    f.close(PATIENCE)
    return errors


def raising(error: BaseException) -> Callable[[list[int]], Any]:
    def function(items: list[int]) -> Any:
        raise error

    return function


def yielding(error: BaseException) -> Callable[[list[int]], Any]:
    def function(items: list[int]) -> Iterator[Any]:
        for _ in items:
            yield error

    return function


WAYS: dict[str, Callable[[Any], list[Any]]] = {
    "raised": lambda error: errors_from(raising(error)),
    "elements": lambda error: errors_from(lambda items: [error] * len(items)),
    "values of a mapping": lambda error: errors_from(lambda items: dict.fromkeys(items, error)),
    "yielded": lambda error: errors_from(yielding(error)),
    "from on_error": lambda error: errors_from(
        raising(KeyError()), on_error=lambda failure: [error] * len(failure.items)
    ),
    "deduplicated": lambda error: errors_from(raising(error), dedupe=lambda item: "same"),
    "isolated": lambda error: errors_from(raising(error), isolate=True),
}
each_way = pytest.mark.parametrize("errors_of", WAYS.values(), ids=WAYS)


# ---- exceptions of all sorts ----


class RequiredKeywords(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code


class Slotted(Exception):
    __slots__ = ("__private", "code", "never_set")

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code = code
        self.__private = code + 1

    @property
    def private(self) -> int:
        return self.__private


class ReduceRaises(Exception):
    def __reduce__(self) -> Any:
        raise RuntimeError("not for pickle")


class ReduceLies(Exception):
    def __reduce__(self) -> Any:
        return RuntimeError, ("of another type",)


class CopyLies(Exception):
    def __copy__(self) -> Any:
        return ValueError("of another type")


class CopyIsSelf(Exception):
    def __copy__(self) -> Any:
        return self


class ArgsGrow(Exception):
    """Its constructor, which `copy.copy` calls, makes other `args` each time."""

    def __init__(self, text: str) -> None:
        super().__init__(f"rows: {text}")


class ArgsChanged(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.args = ("changed", code)


class KeyMissing(KeyError):
    def __init__(self, key: str, table: str) -> None:
        super().__init__(key)
        self.table = table

    def __str__(self) -> str:
        return f"{self.args[0]} is not in {self.table}"


class Described(Exception):
    """Its content is outside of the object; its own `__copy__` takes it along."""

    _codes: ClassVar[WeakKeyDictionary[Any, int]] = WeakKeyDictionary()

    def __init__(self, code: int) -> None:
        super().__init__("described")
        self._codes[self] = code

    def __copy__(self) -> Described:
        return Described(self.code)

    @property
    def code(self) -> int:
        return self._codes[self]


class Derived(ExceptionGroup[Exception]):
    def __new__(cls, message: str, errors: list[Exception], code: int) -> Derived:
        new = super().__new__(cls, message, errors)
        new.code = code
        return new

    def __init__(self, message: str, errors: list[Exception], code: int) -> None:
        super().__init__(message, errors)

    code: int

    def derive(self, errors: Any) -> Derived:
        return Derived(self.message, errors, self.code)


def with_fields(error: Exception, **fields: Any) -> Exception:
    """Return an exception whose fields were set after it was made."""
    for name, value in fields.items():
        setattr(error, name, value)
    return error


def evaluated(code: str) -> Exception:
    try:
        eval(code)
    except Exception as error:
        return error
    raise AssertionError


# Each with its content outside of `args`.
EXCEPTIONS: dict[str, tuple[Callable[[], Exception], list[str]]] = {
    "plain": (lambda: ValueError("wrong", 3), []),
    "SystemError": (lambda: SystemError("bad"), []),
    "NameError": (lambda: NameError("no", name="x"), ["name"]),
    "NameError, set later": (lambda: with_fields(NameError("no"), name="x"), ["name"]),
    "NameError, evaluated": (lambda: evaluated("no_such_name"), ["name"]),
    "AttributeError": (lambda: AttributeError("no", name="x", obj=int), ["name", "obj"]),
    "AttributeError, set later": (
        lambda: with_fields(AttributeError("no"), name="x", obj=[1]),
        ["name", "obj"],
    ),
    "AttributeError, evaluated": (lambda: evaluated("'text'.no"), ["name", "obj"]),
    "ImportError": (lambda: ImportError("no", name="x", path="y"), ["name", "path", "msg"]),
    "ImportError, set later": (
        lambda: with_fields(ImportError("no"), name="x", path="y"),
        ["name", "path", "msg"],
    ),
    "SyntaxError": (
        lambda: SyntaxError("no", ("f.py", 1, 2, "text", 3, 4)),
        ["msg", "filename", "lineno", "offset", "text", "end_lineno", "end_offset"],
    ),
    "SyntaxError, set later": (
        lambda: with_fields(SyntaxError("no"), filename="f.py", lineno=7, offset=2, text="text"),
        ["msg", "filename", "lineno", "offset", "text"],
    ),
    "OSError": (
        lambda: OSError(2, "no such file", "a", None, "b"),
        ["errno", "strerror", "filename", "filename2"],
    ),
    "OSError, set later": (
        lambda: with_fields(OSError("text"), errno=5, strerror="io", filename="a", filename2="b"),
        ["errno", "strerror", "filename", "filename2"],
    ),
    "OSError of None": (lambda: OSError(None, None), ["errno", "strerror"]),
    "OSError, args set later": (
        lambda: with_fields(OSError("text"), args=(2, "no such file"), errno=2),
        ["errno", "strerror"],
    ),
    "UnicodeDecodeError, args set later": (
        lambda: with_fields(evaluated(r"b'a\xff'.decode()"), args=("other",)),
        ["encoding", "object", "start", "end", "reason"],
    ),
    "BlockingIOError": (lambda: BlockingIOError(11, "busy", 7), ["characters_written"]),
    "UnicodeDecodeError": (
        lambda: evaluated(r"b'a\xff'.decode()"),
        ["encoding", "object", "start", "end", "reason"],
    ),
    "UnicodeEncodeError, set later": (
        lambda: with_fields(evaluated(r"'\u1234'.encode('ascii')"), reason="other", end=1),
        ["encoding", "object", "start", "end", "reason"],
    ),
    "ExceptionGroup": (lambda: ExceptionGroup("g", [ValueError(1), KeyError(2)]), ["message"]),
    "derived group": (lambda: Derived("g", [ValueError(1)], code=3), ["message", "code"]),
    "required keywords": (lambda: RequiredKeywords(code=3), ["code"]),
    "slots": (lambda: Slotted(3), ["code", "private"]),
    "subclass of KeyError": (lambda: KeyMissing("k", "users"), ["table"]),
    "__reduce__ raises": (lambda: with_fields(ReduceRaises(1), code=3), ["code"]),
    "__reduce__ lies": (lambda: with_fields(ReduceLies(1), code=3), ["code"]),
    "__copy__ lies": (lambda: with_fields(CopyLies(1), code=3), ["code"]),
    "__copy__ returns self": (lambda: with_fields(CopyIsSelf(1), code=3), ["code"]),
    "own __copy__": (lambda: Described(3), ["code"]),
    "args grow": (lambda: ArgsGrow("one"), []),
    "args changed": (lambda: ArgsChanged(3), []),
}
each_exception = pytest.mark.parametrize(
    ("make", "fields"), EXCEPTIONS.values(), ids=list(EXCEPTIONS)
)


def content(error: Any, fields: list[str]) -> dict[str, Any]:
    shown = {"type": type(error), "args": error.args, "str": str(error)}
    return shown | {name: getattr(error, name) for name in fields}


@each_exception
@each_way
def test_every_caller_gets_its_own_copy(
    errors_of: Callable[[Any], list[Any]], make: Callable[[], Exception], fields: list[str]
) -> None:
    expected = content(make(), fields)
    errors = errors_of(make())
    assert len({id(error) for error in errors}) == CALLERS
    for error in errors:
        found = content(error, fields)
        if isinstance(error, ExceptionGroup):  # whose members are copies, too
            assert repr(found) == repr(expected)
        else:
            assert found == expected


@each_way
def test_a_copy_belongs_to_its_caller(errors_of: Callable[[Any], list[Any]]) -> None:
    error = ValueError("shared")
    error.add_note("for all")
    first, second, third = errors_of(error)
    first.add_note("mine")
    first.mine = True
    for other in (second, third, error):
        assert other.__notes__ == ["for all"]
        assert not hasattr(other, "mine")


def test_the_cause_of_an_exhausted_retry_keeps_its_content() -> None:
    cause = RequiredKeywords(code=3)
    for error in errors_from(lambda items: [Retry(attempts=2, cause=cause)] * len(items)):
        assert type(error) is RetryExhausted
        assert type(error.__cause__) is RequiredKeywords
        assert error.__cause__.code == 3


def test_on_error_sees_the_exception_that_the_callers_get() -> None:
    seen: list[BatchFailure] = []
    errors_from(raising(RequiredKeywords(code=3)), on_error=seen.append)
    assert type(seen[0].exception) is RequiredKeywords
    assert seen[0].exception.code == 3


# ---- exceptions that cannot be copied ----


class NoHash(type):
    __hash__ = None  # type: ignore[assignment]


class Uncopyable(Exception, metaclass=NoHash):
    """As those of some extension modules: neither pickle, nor copy, nor a look can make another."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("made by its library only")


@each_way
def test_an_exception_that_cannot_be_copied_is_shared(
    errors_of: Callable[[Any], list[Any]],
) -> None:
    error = Uncopyable("one")
    errors = errors_of(error)
    assert all(one is error for one in errors)
    assert error.args == ("one",)
    assert not hasattr(error, "__notes__")


def test_an_error_of_the_handler_is_not_noted_on_a_shared_exception() -> None:
    def handler(failure: BatchFailure) -> Any:
        raise KeyError

    error = Uncopyable("one")
    assert errors_from(raising(error), on_error=handler) == [error] * CALLERS
    assert not hasattr(error, "__notes__")


def test_a_shared_cause_keeps_its_type() -> None:
    error = ValueError("outer")
    error.__cause__ = Uncopyable("inner")
    for one in errors_from(raising(error)):
        assert one.__cause__ is error.__cause__


# ---- exceptions that lead to others ----


def linked() -> Exception:
    """Raised, with a cause that was raised, and the same object as an attribute (SQLAlchemy)."""
    try:
        try:
            raise LookupError("inner")
        except LookupError as inner:
            raise ValueError("outer", inner) from inner
    except ValueError as error:
        error.orig = error.__cause__  # type: ignore[attr-defined]
        error.all = [error.__cause__]  # type: ignore[attr-defined]
        return error


@each_way
def test_an_attribute_that_is_the_cause_stays_the_cause(
    errors_of: Callable[[Any], list[Any]],
) -> None:
    for error in errors_of(linked()):
        assert type(error.__cause__) is LookupError
        assert error.orig is error.__cause__
        assert error.all == [error.__cause__]
        assert error.args == ("outer", error.__cause__)


def test_a_ring_of_exceptions_is_copied() -> None:
    first, second = linked(), linked()
    first.__context__, second.__context__ = second, first
    for error in errors_from(raising(first)):
        ring = [error, error.__context__, error.__context__.__context__]
        assert [type(one) for one in ring] == [ValueError] * 3
        assert not any(one is original for one in ring for original in (first, second))


def test_a_long_chain_is_copied() -> None:
    error: Exception = linked()
    for n in range(5000):
        outer = ValueError(n)
        outer.__context__ = error
        error = outer
    for one in errors_from(raising(error)):
        link, depth = one, 0
        while link.__context__ is not None and depth < 6000:
            link, depth = link.__context__, depth + 1
        assert depth == 5001


def test_the_members_of_a_group_keep_their_content() -> None:
    inner = ExceptionGroup("inner", [linked(), RequiredKeywords(code=3)])
    for error in errors_from(raising(ExceptionGroup("outer", [inner, KeyError("k")]))):
        nested, key_error = error.exceptions
        assert key_error.args == ("k",)
        assert [type(one) for one in nested.exceptions] == [ValueError, RequiredKeywords]
        assert nested.exceptions[0].orig is nested.exceptions[0].__cause__
        assert nested.exceptions[1].code == 3


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_base_exceptions_are_the_cause_of_an_abort(kind: type[BaseException]) -> None:
    for error in errors_from(raising(kind(3))):
        assert type(error) is BatchAborted
        assert type(error.__cause__) is kind
        assert error.__cause__.args == (3,)


def test_every_built_in_exception_is_copied() -> None:
    made = []
    for cls in vars(builtins).values():
        if isinstance(cls, type) and issubclass(cls, Exception):
            try:
                made.append(cls("text", 2))
            except TypeError:  # it wants others
                continue
    assert len(made) > 40
    for error in made:
        if isinstance(error, (StopIteration, StopAsyncIteration)):
            continue
        for one in errors_from(lambda items, error=error: [error] * len(items)):
            assert type(one) is type(error)
            assert (one.args, str(one)) == (error.args, str(error))
            assert one is not error


# ---- of extension modules ----


@each_way
def test_a_validation_error_of_pydantic_is_copied(errors_of: Callable[[Any], list[Any]]) -> None:
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("User", age=(int, ...))
    with pytest.raises(pydantic.ValidationError) as raised:
        model(age="many")
    errors = errors_of(raised.value)
    assert len({id(error) for error in errors}) == CALLERS
    for error in errors:
        assert type(error) is pydantic.ValidationError
        assert error.errors() == raised.value.errors()
        assert error.title == "User"


@each_way
def test_a_unique_violation_of_psycopg2_keeps_its_type(
    errors_of: Callable[[Any], list[Any]],
) -> None:
    pytest.importorskip("psycopg2")
    from psycopg2.errors import UniqueViolation

    error = UniqueViolation("duplicate key")
    error.__setstate__({"pgcode": "23505", "pgerror": "ERROR: duplicate key"})
    for one in errors_of(error):
        assert type(one) is UniqueViolation
        assert one.args == ("duplicate key",)
        assert (one.pgcode, one.pgerror) == ("23505", "ERROR: duplicate key")
