"""`python -m tests.races`; see `run`."""

from tests.races.run import main

main()
