"""Tests; a package, so that no other's `tests` on the path stands before it."""
