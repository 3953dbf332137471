"""Semantic IDs: codes of items, their text and packed forms, collisions, tables and tries.

Importing this package imports no torch: `unitok.ids.text` serves without it.
"""
