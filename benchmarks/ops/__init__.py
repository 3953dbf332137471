"""One module per operation: its cases, and the levels that are compared."""
