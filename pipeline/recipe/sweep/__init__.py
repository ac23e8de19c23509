"""Sweeps: a recipe with lists of values, each combination an ordinary run, all results in one table."""
