"""Split the parameters of one test into the default and the deep tier."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def few(values: Iterable[Any], count: int = 1) -> list[Any]:
    """Return values for `parametrize`: the default tier runs the first `count` of them.

    The deep tier runs the others.
    """
    every = list(values)
    return every[:count] + [pytest.param(value, marks=pytest.mark.deep) for value in every[count:]]
