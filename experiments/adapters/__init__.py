"""Distributions around frozen embeddings: training, judging, using and reporting them."""
