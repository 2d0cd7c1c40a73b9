"""Limits, verdicts and speed baselines; reads numbers, never tensors."""
