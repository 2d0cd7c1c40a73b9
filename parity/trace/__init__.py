"""Taps as they are kept: sketches, journals, traces on disk."""
