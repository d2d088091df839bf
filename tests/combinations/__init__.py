"""Random combinations of all options, under random traffic, checked by one oracle.

    python -m tests.combinations [--examples 20000] [--seed S]
    python -m tests.combinations --replay "Plan(...)" [--times 200]

A `Plan` determines everything in a run except the timing of threads. `Ledger` is the oracle: the
batch function records which item got which value, the actors record what they asked for and what
they got, and both must agree. A failing run prints its plan; `--replay` runs it again.
"""
