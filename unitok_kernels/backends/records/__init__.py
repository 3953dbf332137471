"""One module a backend, each with its record, `BACKEND`."""
