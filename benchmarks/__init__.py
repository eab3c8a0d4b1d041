"""Speed side by side; see `python -m benchmarks --help`."""
