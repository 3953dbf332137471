"""Benchmarks of the operations on a GPU: `make bench-gpu`."""
