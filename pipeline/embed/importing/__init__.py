"""Import of embeddings from other programs into a store."""
