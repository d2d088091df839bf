"""The commands of `python -m batchify`, a module each; imported when asked for."""
