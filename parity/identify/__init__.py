"""Which official release a run follows, and which behaviours differ from it."""
