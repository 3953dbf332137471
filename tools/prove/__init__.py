"""What `make prove` holds a built package to; `python -m tools.prove.wheel` and `no_compiler` build one each."""
