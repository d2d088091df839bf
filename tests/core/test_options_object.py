"""The options of a function are an immutable object."""

from __future__ import annotations

import pytest

from batchify import batched
from batchify.options import Options
from tests.gates import echo


def test_options_are_immutable() -> None:
    f = batched(echo)
    options = f._options()
    assert isinstance(options, Options)
    with pytest.raises(AttributeError):
        options.size = 3
