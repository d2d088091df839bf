"""The engine: drives forming and outcome with worker threads, or on event loops."""
