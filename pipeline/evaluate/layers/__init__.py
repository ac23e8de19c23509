"""A linear classifier on every layer of a network."""
