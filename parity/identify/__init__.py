"""The official release that a run follows, and the behaviours that differ from it."""
