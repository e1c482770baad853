"""The distributions: what an embedding is."""
