"""Embeddings that other programs made, into a store that students can be trained from."""
