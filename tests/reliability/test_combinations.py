"""Random combinations of all options, under random traffic, checked by one oracle."""

from __future__ import annotations

import pytest
from hypothesis import settings

from tests.combinations.run import make_test

test_combinations = pytest.mark.timeout(600)(make_test(settings()))
