"""The sources of limits: harmless variations, defects put in on purpose, and how both move metrics."""
