"""Weights that others wrote: read a file safely, see how it is laid out, find the backbone in it."""
