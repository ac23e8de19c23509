"""Sweeps: all combinations of lists of values, and one table of their results."""
