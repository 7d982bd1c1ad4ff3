"""Whole processes put through faults, with an oracle that knows what is owed: `python -m benchmarks.faults`."""
