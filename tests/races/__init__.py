"""Several processes at once on one folder: what is left is the result of one of them, whole, or the old one."""
