"""Load the objects that the commands get as `MODULE:NAME`.

Each mistake of the user ends in a `CommandError`, whose message names what to do about it.
Callers are the commands, which print the message and exit with status 2.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from pathlib import Path
from types import FunctionType
from typing import Any

_BATCHIFY = os.path.dirname(os.path.dirname(__file__)) + os.sep
_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep


class CommandError(Exception):
    """A command cannot do what it was asked for; the message says why."""


def print_mistake(target: str, error: Exception) -> int:
    """Print what is wrong with a target, and return the exit status of the command."""
    text = str(error)
    print(text if text.startswith(target) else f"{target}: {text}", file=sys.stderr)
    return 2


def load(target: str) -> Any:
    """Import the module of a target and return the object that it names.

    Args:
        target: "module:name"; the name may have dots.

    Raises:
        CommandError: the target has another form, the import fails, or the name does not exist.
    """
    module, _, name = target.rpartition(":")
    if not module or not name:
        raise CommandError(f"expected MODULE:FUNCTION, such as app:insert, got {target!r}")
    thing = _import(module, name)
    found = module
    for part in name.split("."):
        try:
            thing = getattr(thing, part)
        except AttributeError:
            similar = difflib.get_close_matches(part, dir(thing), 1)
            hint = f"; did you mean {similar[0]}?" if similar else ""
            raise CommandError(f"{found} has no {part!r}{hint}") from None
        found = f"{found}{'.' if ':' in found else ':'}{part}"
    return thing


def is_method_of_class(target: str) -> bool:
    """Return True if a target that `load` returned is a method that lacks its instance."""
    module, _, name = target.rpartition(":")
    owner, _, method = name.rpartition(".")
    thing = load(f"{module}:{owner}") if owner else None
    if not isinstance(thing, type):
        return False
    found = next((vars(cls)[method] for cls in thing.__mro__ if method in vars(cls)), None)
    while not isinstance(found, (staticmethod, classmethod, FunctionType)):
        found = getattr(found, "__wrapped__", None)  # of a decorator
        if found is None:
            return False
    return isinstance(found, FunctionType)


def _import(module: str, name: str) -> Any:
    path = Path(module)
    if len(path.parts) > 1 or path.suffix == ".py" or module.startswith("."):
        raise CommandError(_advice_for_path(path, name))
    if os.getcwd() not in sys.path:  # `python -m` adds it, an installed script does not
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            raise CommandError(
                f"no module named {error.name!r} in {os.getcwd()} or among the installed packages; "
                f"run the command in the directory that contains it"
            ) from None
        raise CommandError(_import_failure(module, error)) from error
    except SystemExit as error:
        raise CommandError(
            f"{module} exits when it is imported{_location(error)}; "
            f'move its main program under `if __name__ == "__main__":`'
        ) from error
    except Exception as error:
        raise CommandError(_import_failure(module, error)) from error


def _advice_for_path(path: Path, name: str) -> str:
    """Return what to write instead of the path of a file."""
    if not path.is_file():
        return f"{str(path)!r} is neither a module nor a file; write MODULE:FUNCTION"
    module = path.resolve()
    directory = Path.cwd()
    if not module.is_relative_to(directory):
        directory = module.parent
    dotted = ".".join(module.relative_to(directory).with_suffix("").parts)
    where = "" if directory == Path.cwd() else f", and run the command in {directory}"
    return f"{str(path)!r} is a file; write its module name: {dotted}:{name}{where}"


def _import_failure(module: str, error: Exception) -> str:
    return f"importing {module} failed with {describe(error)}{_location(error)}"


def describe(error: BaseException) -> str:
    """Return the type of an error and its message on one line."""
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = ""
    return f"{type_name(error)}: {text}" if text else type_name(error)


def _location(error: BaseException) -> str:
    """Return the line of the user's code that raised, as " (app.py, line 3)"."""
    if isinstance(error, SyntaxError):
        return ""  # its message has file and line
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(("<frozen ", _BATCHIFY))
    ]
    own = [
        frame
        for frame in frames
        if not frame.filename.startswith(_STANDARD_LIBRARY)
        and "site-packages" not in Path(frame.filename).parts
    ]
    if not own:
        return ""
    return f" ({os.path.basename(own[-1].filename)}, line {own[-1].lineno})"


def type_name(thing: object) -> str:
    """Return the name of the type of `thing`, for a message."""
    return type(thing).__name__
