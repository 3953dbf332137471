"""The commands of `unitok`, one a module; each imports torch and the tokenizer only when it runs."""
