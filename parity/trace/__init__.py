"""How taps are kept: sketches, journals, traces on disk."""
