"""Two versions of IDs: what became of them, and how a newer one keeps most of an older one."""
