import jax.numpy as jnp
import numpy as np

from experiments import search_speed
from probemb.search import TopK


def test_a_small_run_finds_the_same_neighbours():
    config = search_speed.Config(number=300, dimension=8, queries=20, k=3, repeats=1)
    figures = search_speed.run(config)
    assert figures["20 queries, same"] == figures["1 query, same"] == 1.0
    assert all(np.isfinite(value) and value >= 0.0 for value in figures.values())


def test_agreement_counts_what_both_find_in_any_order():
    found, expected = (
        TopK(jnp.zeros((2, 2)), jnp.array(indices))
        for indices in ([[3, 1], [0, 2]], [[1, 3], [0, 4]])
    )
    assert search_speed.agreement(found, expected) == 0.75
