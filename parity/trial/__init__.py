"""Trials: harmless variations of the reference, defects put in on purpose, and the limits and scores that follow."""
