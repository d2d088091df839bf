"""The time limit of the tests: it only catches hangs, on a machine however busy.

Nothing may depend on it, or on any other time that passes. pytest-timeout has 300 s for a test.
"""

LIMIT = 240.0  # seconds
