"""Log lines show where an error was raised (contract 4, "Failures are never silent")."""

from __future__ import annotations

import linecache

from batchify import batched
from batchify.logs import location_of

SOURCE = """\
import json

def helper():
    raise OSError

def fails_here():
    helper()

def fails_in_a_library():
    json.loads('{')
"""


def error_of(name: str, filename: str = "/srv/shop/app.py") -> Exception:
    space: dict[str, object] = {}
    exec(compile(SOURCE, filename, "exec"), space)
    try:
        space[name]()  # type: ignore[operator]
    except Exception as error:
        return error
    raise AssertionError


def test_the_location_is_the_innermost_line() -> None:
    assert location_of(error_of("fails_here")) == "app.py:4"


def test_the_location_is_the_line_that_called_a_library() -> None:
    assert location_of(error_of("fails_in_a_library")) == "app.py:10"


def test_an_error_inside_libraries_only_has_a_location() -> None:
    filename = "/venv/lib/python3.11/site-packages/shop/app.py"
    error = error_of("fails_here", filename)
    error.__traceback__ = error.__traceback__.tb_next  # type: ignore[union-attr]
    assert location_of(error) == "app.py:4"


def test_an_error_that_was_never_raised_has_no_location() -> None:
    assert location_of(ValueError("content")) == "no traceback"


def test_the_frames_of_batchify_do_not_count() -> None:
    @batched
    def function(items: list[int]) -> list[int]:
        raise OSError

    try:
        function(1).result()
    except OSError as error:
        filename, line = location_of(error).split(":")
        assert filename == "test_logs.py"
        assert "raise OSError" in linecache.getline(__file__, int(line))
    function.close()
