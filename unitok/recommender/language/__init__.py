"""Language models as recommenders: the tokens of IDs in their vocabulary."""
