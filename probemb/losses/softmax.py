"""Softmax cross-entropies of the rows and of the columns of all pairs, from sums over tiles."""

import jax
import jax.numpy as jnp


def sums(logits: jax.Array, label: jax.Array) -> tuple[dict, dict]:
    """For each row and column: the log-sum of exponentials, the labelled logits, the labels."""

    def along(axis: int) -> dict:
        return {
            "log_sum": jax.nn.logsumexp(logits, axis=axis),
            "labelled": jnp.sum(label * logits, axis=axis),
            "labels": jnp.sum(label, axis=axis),
        }

    return along(1), along(0)


def merge(stacked: dict) -> dict:
    """The sums over the tiles of a leading axis."""
    merged = {name: jnp.sum(values, axis=0) for name, values in stacked.items()}
    return {**merged, "log_sum": jax.nn.logsumexp(stacked["log_sum"], axis=0)}


def cross_entropy(of: dict) -> jax.Array:
    """Of each row, or each column, from its sums; 0 where it has no label."""
    labelled = of["labels"] > 0.0
    # Divided only now: before all tiles are merged, no row knows the sum of its labels.
    expected = of["labelled"] / jnp.where(labelled, of["labels"], 1.0)
    return jnp.where(labelled, of["log_sum"] - expected, 0.0)
