"""Estimate of what embedding a data set will take: a formula and a short timed run."""
