import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lasi_jax.wls import tiling
from lasi_jax.wls.causal_sums import causal_sums

DECAY = 0.8
SHAPES = [(5, 4, 3), (7, 40), (3, 20, 33), (4, 3, 18, 2), (40, 1, 1), (3, 1100)]


def weights(shape):
    """(elements, elements): decay ** L1 where the column is earlier than the row."""
    positions = np.indices(shape).reshape(len(shape), -1).T
    distance = np.abs(positions[:, None] - positions[None]).sum(-1)
    return np.tril(DECAY**distance, -1)


def sums(values, shape, *, reverse=False, rows=2):
    """`causal_sums` of one image (*shape), `rows` rows to a block."""
    cut = tiling.tiling(shape, 1, cpu=True)._replace(rows=rows, blocks=-(-shape[0] // rows))
    tiles = tiling.to_tiles(jnp.asarray(values)[None, None], cut)
    carry = jnp.zeros((*cut.chunks, 1, 1, *cut.counts))
    _, out = jax.lax.scan(
        lambda carry, tile: causal_sums(tile, carry, cut, decay=DECAY, reverse=reverse),
        carry,
        tiles,
        reverse=reverse,
    )
    return np.asarray(tiling.from_tiles(out, cut)[0, 0])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_equals_the_dense_sum(shape, reverse):
    values = np.random.default_rng(0).normal(size=shape)
    matrix = weights(shape).T if reverse else weights(shape)
    expected = (matrix @ values.reshape(-1)).reshape(shape)
    np.testing.assert_allclose(sums(values, shape, reverse=reverse), expected, atol=1e-12)


@pytest.mark.parametrize("rows", [1, 3, 7])
def test_blocks_do_not_show(rows):
    values = np.random.default_rng(1).normal(size=(7, 19, 2))
    expected = sums(values, values.shape, rows=2)
    np.testing.assert_allclose(sums(values, values.shape, rows=rows), expected, atol=1e-13)


def test_tiles_there_and_back():
    values = np.random.default_rng(2).normal(size=(2, 3, 11, 35, 3))
    cut = tiling.tiling((11, 35, 3), 3, cpu=True)._replace(rows=4, blocks=3)
    tiles = tiling.to_tiles(jnp.asarray(values), cut)
    assert tiles.shape == (3, *cut.chunks, 2, 3, *cut.counts, 4)
    np.testing.assert_array_equal(tiling.from_tiles(tiles, cut), values)
