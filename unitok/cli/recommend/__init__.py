"""Commands of `unitok recommend`."""
