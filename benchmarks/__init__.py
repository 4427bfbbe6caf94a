"""One script for each question; see `python -m benchmarks --help`."""
