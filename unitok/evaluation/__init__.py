"""Evaluation of a fitted tokenizer: the report, its figure, and go or no-go for a new domain."""
