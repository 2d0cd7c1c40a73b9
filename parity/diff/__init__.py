"""Comparisons: pure functions, numbers out."""
