"""Taps, sketches, run folders and goldens."""
