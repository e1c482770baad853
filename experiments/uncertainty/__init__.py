"""Uncertainty without a distribution: the baselines that every family of experiments has."""
