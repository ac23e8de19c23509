"""Estimate of what embedding a dataset costs: a formula and a short timed run."""
