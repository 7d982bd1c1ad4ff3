"""Benchmarks: run by hand or by `make`; their figures go into docs, never into a test's verdict."""
