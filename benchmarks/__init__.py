"""What the operations cost, beside whatever else could do their job. `make bench` runs it; see docs/results/cpu.md."""
