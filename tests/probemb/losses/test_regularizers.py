import chex
import jax
import numpy as np
import pytest
from scipy.spatial.distance import pdist

import probemb
from probemb import DiagonalGaussian
from probemb.numerics import reduction


def test_released_uniformity(golden):
    dimension = golden("image_mean").shape[1]
    points = [golden(f"{name}_samples").reshape(-1, dimension) for name in ("image", "text")]
    value = jax.jit(probemb.uniformity)(np.concatenate(points))
    np.testing.assert_allclose(value, golden("pcme/uniformity_t2_all_points"), rtol=1e-9)


@pytest.mark.parametrize("tile", [1, 21, 10**6])
def test_uniformity_is_its_definition_in_blocks_of_any_size(monkeypatch, tile):
    monkeypatch.setattr(reduction, "TILE", tile)
    monkeypatch.setattr(reduction, "_FEW_ROWS", 1)
    points = np.random.default_rng(0).normal(size=(7, 3))
    expected = np.log(np.mean(np.exp(-0.5 * pdist(points) ** 2)))
    value = jax.jit(lambda points: probemb.uniformity(points, t=0.5))(points)
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_uniformity_gradients(check_to_second_order):
    points = np.random.default_rng(0).normal(size=(4, 3))
    check_to_second_order(probemb.uniformity, (points,))


with_gradient = jax.jit(jax.value_and_grad(probemb.uniformity))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [0.0, 1e3])
def test_uniformity_of_coinciding_and_distant_points_is_finite(dtype, scale):
    points = dtype(scale) * np.eye(3, dtype=dtype)
    chex.assert_tree_all_finite(with_gradient(points))


def test_the_bottleneck_by_hand():
    p = DiagonalGaussian(np.array([[1.0, -2.0]]), np.array([[0.0, 1.0]]))
    by_hand = 0.5 * (1.0 + 4.0 + (np.e - 1.0 - 1.0))
    np.testing.assert_allclose(jax.jit(probemb.kl_to_standard_normal)(p), [by_hand], rtol=1e-12)


def test_bad_input():
    with pytest.raises(ValueError, match="points must be two or more"):
        probemb.uniformity(np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"points must have shape \(point dimension\)"):
        probemb.uniformity(np.zeros(3))
    with pytest.raises(ValueError, match="t must be positive"):
        probemb.uniformity(np.zeros((2, 3)), t=0.0)
