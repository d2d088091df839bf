"""The table of docs/reliability.md names a test for every promise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.named import names_in

PAGE = Path(__file__).parent.parent.parent / "docs" / "reliability.md"
PROMISE = re.compile(r"^\| (C-\d\d) \|([^|]*)\|([^|]*)\|$", re.MULTILINE)
SHOWN_BY = re.compile(r"^\| (C-\d\d) \|([^|]*)\|$", re.MULTILINE)
TEST = re.compile(r"`((?:\w+/)?test_\w+)::(test_\w+)`")

# The promises, by their numbers in the study.
CONTRACTS = [
    f"C-{number:02}"
    for first, last in [
        (1, 9), (10, 13), (20, 22), (30, 33), (40, 46), (50, 53), (60, 62), (70, 72), (80, 84),
        (90, 90),
    ]
    for number in range(first, last + 1)
]  # fmt: skip


def promises() -> dict[str, tuple[str, str]]:
    """Return each promise, and what went wrong elsewhere."""
    return {row[1]: (row[2], row[3]) for row in PROMISE.finditer(PAGE.read_text("utf-8"))}


def named_tests() -> dict[str, str]:
    """Return the tests of each promise, as the page names them."""
    return {row[1]: row[2] for row in SHOWN_BY.finditer(PAGE.read_text("utf-8"))}


def test_the_tables_have_every_promise_in_order() -> None:
    assert list(promises()) == CONTRACTS
    assert list(named_tests()) == CONTRACTS


@pytest.mark.parametrize("contract", CONTRACTS)
def test_every_promise_has_a_test_and_says_what_went_wrong_elsewhere(contract: str) -> None:
    promise, elsewhere = promises()[contract]
    assert promise.strip()
    assert elsewhere.strip()
    shown_by = named_tests()[contract]
    found = TEST.findall(shown_by)
    assert found, f"{contract} has no test"
    assert not TEST.sub("", shown_by).strip(" ,"), "something other than a test"
    for module, name in found:
        assert name in names_in(module), f"{contract}: there is no {module}::{name}"
