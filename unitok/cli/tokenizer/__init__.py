"""Commands that fit, use and measure a tokenizer."""
