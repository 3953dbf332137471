"""Files of every kind, damaged: the loaders must refuse them in one line, or read what was written."""
