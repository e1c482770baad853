"""Embeddings that are distributions: a point with its own uncertainty instead of a point alone."""
