"""Checks before and while a store is written: canaries, half precision."""
