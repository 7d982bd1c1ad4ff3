"""How fast it is: each figure beside a baseline of the same run. `make bench`, or `python -m benchmarks.speed`."""
