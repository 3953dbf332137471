"""`python -m unitok` is the command `unitok`."""

from unitok.cli import main

main()
