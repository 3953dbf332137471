"""Fitting a tokenizer: batches, losses, initialisation, the training loop, and alarms."""
