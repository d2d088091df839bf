"""The commands of `python -m batchify`: one module per command, imported when it runs."""
