"""The time limit of the tests, which only catches hangs, however busy the machine is.

No test may depend on this limit, or on any other elapsed time. pytest-timeout allows 300 s per
test.
"""

LIMIT = 240.0  # seconds
