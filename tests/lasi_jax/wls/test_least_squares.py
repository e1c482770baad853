import jax.numpy as jnp
import numpy as np
import pytest

from lasi_jax.wls import least_squares


@pytest.mark.parametrize("size", [1, 2, 7])
def test_solves_every_system(size):
    generator = np.random.default_rng(size)
    root = generator.normal(size=(50, size, size))
    systems = root @ root.swapaxes(1, 2) + 0.1 * np.eye(size)
    right = generator.normal(size=(50, size))
    factor = least_squares.cholesky(lambda i, k: jnp.asarray(systems[:, i, k]), size)
    solved = least_squares.solve(factor, [jnp.asarray(right[:, i]) for i in range(size)])
    expected = np.linalg.solve(systems, right[..., None])[..., 0]
    np.testing.assert_allclose(np.stack(solved, -1), expected, rtol=1e-9, atol=1e-9)


def test_asks_for_the_lower_triangle_only():
    def entry(i, k):
        assert i >= k
        return jnp.full((2,), 2.0 if i == k else 0.5)

    assert [len(row) for row in least_squares.cholesky(entry, 4)] == [1, 2, 3, 4]
