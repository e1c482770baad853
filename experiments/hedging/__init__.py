"""Hedged instance embeddings (HIB): model, evaluation, page and pictures."""
