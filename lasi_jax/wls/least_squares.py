"""The ridge system of every element, solved plane by plane.

An entry of the matrix is one array over all elements ("plane"), and the
Cholesky factorisation is unrolled over the entries. Compared with a batched
LAPACK call this is faster for the usual few unknowns, runs on
every backend, and cannot deadlock XLA's two-thread CPU pool.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

Factor = list[list[jax.Array]]


def cholesky(matrix: Callable[[int, int], jax.Array], size: int) -> Factor:
    """The lower factor L of a symmetric positive definite A = L L^T, as rows of planes.

    Args:
      matrix: (i, k) -> plane of entry A_ik, asked for i >= k only.
      size: number of unknowns.

    Every entry ends in a square root or a division by it. XLA never recomputes
    these, so each entry is computed once; a multiplication by the reciprocal
    looks cheaper, is fused into every use, and is much slower.
    """
    # No pivots: A is at least ridge I, and so is what elimination leaves of it.
    lower: Factor = [[] for _ in range(size)]
    for k in range(size):
        for i in range(k, size):
            entry = matrix(i, k)
            for m in range(k):
                entry = entry - lower[i][m] * lower[k][m]
            lower[i].append(jnp.sqrt(entry) if i == k else entry / lower[k][k])
    return lower


def solve(lower: Factor, right: Sequence[jax.Array]) -> list[jax.Array]:
    """The planes x of L L^T x = right."""
    size = len(right)
    x: list[jax.Array] = []
    for k in range(size):
        entry = right[k]
        for m in range(k):
            entry = entry - lower[k][m] * x[m]
        x.append(entry / lower[k][k])
    for k in reversed(range(size)):
        entry = x[k]
        for i in range(k + 1, size):
            entry = entry - lower[i][k] * x[i]
        x[k] = entry / lower[k][k]
    return x
