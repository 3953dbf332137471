"""Commands that make a catalogue: import published data, embed texts."""
