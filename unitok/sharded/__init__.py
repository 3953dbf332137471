"""Catalogues that are larger than memory: folders of Parquet files, tokenized a block of rows at a time."""
