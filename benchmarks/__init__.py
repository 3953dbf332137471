"""Benchmarks of the operations against other libraries. `make bench` runs them; see docs/results/cpu.md."""
