"""Checking a store beyond its checksums: rendering and embedding some of its images again."""
