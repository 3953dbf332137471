"""How well IDs rank the next item: the study, its settings, its IDs and its page."""
