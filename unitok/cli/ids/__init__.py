"""Commands on tables of IDs."""
