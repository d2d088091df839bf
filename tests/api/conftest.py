"""Fixtures of all tests of the API."""

from tests.api.shapes import books, shape

__all__ = ["books", "shape"]
