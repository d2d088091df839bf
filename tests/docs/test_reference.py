"""The docstrings in the reference describe every argument, in order, and its default."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

from batchify import Retry, batched
from batchify.calls import Calls

DESCRIBED = [
    batched, Calls.submit, Calls.options, Calls.batch, Calls.map, Calls.amap, Calls.flush,
    Calls.close, Calls.observe, Retry,
]  # fmt: skip


def arguments(function: Callable[..., Any]) -> dict[str, str]:
    """Return the descriptions in the section `Args`."""
    doc = inspect.cleandoc(function.__doc__ or "")
    section = re.search(r"^Args:\n((?:    .*\n?)+)", doc, re.MULTILINE)
    assert section is not None
    parts = re.split(r"^    (\w+): ", section[1], flags=re.MULTILINE)[1:]
    return {
        name: " ".join(text.split()) for name, text in zip(parts[::2], parts[1::2], strict=True)
    }


def parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    every = inspect.signature(function).parameters.values()
    return [one for one in every if one.name not in ("self", "unknown")]


@pytest.mark.parametrize("function", DESCRIBED, ids=lambda f: f.__qualname__)
def test_every_argument_is_described(function: Callable[..., Any]) -> None:
    described = arguments(function)
    assert list(described) == [one.name for one in parameters(function)]
    assert len(set(described.values())) == len(described)
    for name, text in described.items():
        assert text.endswith("."), name


@pytest.mark.parametrize("function", DESCRIBED, ids=lambda f: f.__qualname__)
def test_every_default_is_in_the_text(function: Callable[..., Any]) -> None:
    described = arguments(function)
    for parameter in parameters(function):
        name, default = parameter.name, parameter.default
        if name in ("func", "item") or default is parameter.empty:
            continue
        assert "default" in described[name].lower(), name
        if isinstance(default, bool):
            assert f"Default: {default}" in described[name]
        elif isinstance(default, (int, float)):
            assert f"{default:g}" in described[name]
