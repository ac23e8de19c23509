"""Checks before and while a store is written: disk space, canaries, half precision."""
