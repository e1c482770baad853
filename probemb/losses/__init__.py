"""What embeddings learn from."""
