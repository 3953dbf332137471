"""Scripts for the interpreter that has only what was built. They are run by path: nothing else is in their reach."""
