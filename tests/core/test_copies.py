"""Every caller gets its own copy of an exception (contract 4)."""

from __future__ import annotations

import concurrent.futures
import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from batchify import MissingResult
from tests.core.driver import Item, all_of, gives, raises, run
from tests.core.error_types import (
    Data,
    Frozen,
    KeywordsOnly,
    OwnGroup,
    OwnNew,
    OwnOSError,
    OwnProperty,
    OwnReduce,
    OwnSignature,
    PrivateSlot,
    Slotted,
)


def noted() -> Exception:
    error = ValueError("noted")
    error.add_note("while inserting")
    error.table = "users"  # type: ignore[attr-defined]
    return error


def chained() -> Exception:
    error = ValueError("chained")
    error.__cause__ = LookupError("cause")
    return error


def really(code: str) -> Exception:
    """Return the exception that evaluating `code` raises."""
    try:
        eval(code)
    except Exception as error:
        return error
    raise AssertionError


EXCEPTIONS: dict[str, Callable[[], Exception]] = {
    "ValueError": lambda: ValueError("wrong", 3),
    "no args": ValueError,
    "KeyError": lambda: KeyError("key"),
    "ZeroDivisionError": lambda: really("1 / 0"),
    "NameError": lambda: really("no_such_name"),
    "AttributeError": lambda: really("(1).no_such_attribute"),
    "OSError": lambda: OSError("text only"),
    "FileNotFoundError": lambda: OSError(2, "no such file", "users.db"),
    "two filenames": lambda: OSError(2, "no such file", "users.db", None, "users.bak"),
    "BlockingIOError": lambda: BlockingIOError(11, "would block", 7),
    "TimeoutError": lambda: TimeoutError("late"),
    "UnicodeDecodeError": lambda: really(r"b'\xff'.decode()"),
    "UnicodeEncodeError": lambda: really(r"'\u1234'.encode('ascii')"),
    "ImportError": lambda: ImportError("no", name="numpy", path="/lib"),
    "ModuleNotFoundError": lambda: really("__import__('no_such_module')"),
    "SyntaxError": lambda: really("compile('a b', 'file.py', 'exec')"),
    "ExceptionGroup": lambda: ExceptionGroup("both", [ValueError(1), KeyError(2)]),
    "own group": lambda: OwnGroup("both", [ValueError(1), KeyError(2)], code=3),
    "JSONDecodeError": lambda: really("json.loads('{')"),
    "CalledProcessError": lambda: subprocess.CalledProcessError(3, "ls", "out", "err"),
    "futures.CancelledError": concurrent.futures.CancelledError,
    "BatchifyError": lambda: MissingResult("of another function"),
    "notes and attributes": noted,
    "cause": chained,
    "own signature": lambda: OwnSignature(3, detail="of it"),
    "keywords only": lambda: KeywordsOnly(code=3),
    "own __reduce__": lambda: OwnReduce(3, "of it"),
    "own __new__": lambda: OwnNew(3, detail="of it"),
    "__slots__": lambda: Slotted(3),
    "private __slots__": lambda: PrivateSlot(3),
    "read-only property": lambda: OwnProperty(3),
    "own OSError": lambda: OwnOSError("users.db", attempt=2),
    "dataclass": lambda: Data(3),
    "frozen dataclass": lambda: Frozen(3),
}
assert json  # for `really`

# The fields that built-in exceptions have outside of `args` and `__dict__`.
ATTRIBUTES = (
    "errno strerror filename filename2 characters_written encoding object start end reason "
    "name path msg lineno offset text exceptions message value code"
).split()
# The suggestion of a NameError or AttributeError, which may be made of a neighbour's item.
MAY_LACK = {NameError: {"name"}, AttributeError: {"name"}}


def content(error: BaseException) -> dict[str, Any]:
    """Return everything that can be seen of an exception."""
    kept = [name for name in ATTRIBUTES if name not in MAY_LACK.get(type(error), ())]
    return {
        "type": type(error),
        "args": error.args,
        "str": str(error),
        "cause": error.__cause__,
        "context": error.__context__,
        "suppress": error.__suppress_context__,
        "notes": list(getattr(error, "__notes__", [])),
        **{name: getattr(error, name) for name in kept if hasattr(error, name)},
        **{name: value for name, value in vars(error).items() if name != "__notes__"},
    }


@pytest.mark.parametrize("make", EXCEPTIONS.values(), ids=EXCEPTIONS)
def test_each_caller_gets_its_own_copy_of_the_error(make: Any) -> None:
    error = make()
    expected = content(error)
    errors = run(raises(error), [1, 2, 3]).errors
    assert all_of(type(error), errors)
    for one in errors:
        assert content(one) == expected
    errors[0].__dict__["mine"] = True
    if hasattr(errors[0], "__notes__"):
        errors[0].__notes__.append("mine")
    assert content(errors[1]) == expected


@pytest.mark.parametrize("make", EXCEPTIONS.values(), ids=EXCEPTIONS)
def test_each_caller_gets_an_own_copy_of_an_element(make: Any) -> None:
    error = make()
    expected = content(error)
    ran = run(gives(["neighbour", error, error]), [1, 2, 3])
    assert ran.outcomes[0] == "neighbour"
    errors = [outcome.error for outcome in ran.outcomes[1:]]
    assert all_of(type(error), errors)
    for one in errors:
        assert content(one) == expected


def test_an_exception_that_cannot_be_copied_goes_to_the_first_caller() -> None:
    class Uncopyable(Exception):
        def __new__(cls, *, secret: object = None) -> Uncopyable:
            if secret is not Uncopyable:
                raise TypeError("made by its library only")
            return super().__new__(cls)

        def __reduce_ex__(self, protocol: Any) -> Any:
            raise TypeError("cannot be copied")

        def __init__(self, *, secret: object = None) -> None:
            if secret is not Uncopyable:
                raise TypeError("made by its library only")

        def __setattr__(self, name: str, value: object) -> None:
            raise TypeError("cannot be changed")

    error = Uncopyable(secret=Uncopyable)
    for ran in (run(raises(error), [1, 2, 3]), run(gives([error] * 3), [1, 2, 3])):
        errors = ran.errors
        assert len({id(one) for one in errors}) == 3
        assert all(isinstance(one, Uncopyable) or one.__cause__ is error for one in errors)
        assert isinstance(errors[0], Uncopyable)


def test_one_instance_raised_in_several_batches_becomes_several() -> None:
    function = raises(ValueError("module level"))
    errors = [error for _ in range(3) for error in run(function, [1, 2]).errors]
    assert all_of(ValueError, errors)


def test_an_attribute_error_brings_no_neighbours_item_along() -> None:
    def function(items: list[Item]) -> Any:
        return [item.no_such_attribute for item in items]  # type: ignore[attr-defined]

    errors = run(function, [Item("a"), Item("b")]).errors
    assert all_of(AttributeError, errors)
    assert not any(isinstance(error.obj, Item) for error in errors)  # type: ignore[attr-defined]
