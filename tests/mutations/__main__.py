"""`python -m tests.mutations`; see `run`."""

from tests.mutations.run import main

main()
