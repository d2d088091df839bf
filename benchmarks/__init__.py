"""How fast batchify is, against what one would use instead: `python -m benchmarks`."""
