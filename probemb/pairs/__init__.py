"""Two embeddings: how far apart, and how probably they match."""
