"""Where limits come from: harmless variations, defects put in on purpose, and how both move metrics."""
