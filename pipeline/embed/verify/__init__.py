"""Checks of a store: its bytes, and a sample of its images embedded again."""
