"""For developers of UniTok; none of this is in the wheel."""
