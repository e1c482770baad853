import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lasi_jax.means import mean

RANDOM = np.random.default_rng(0)
MAPS = {
    "equal": np.full((54, 54), 0.9999),
    "nearly equal": 0.9999 + 1e-7 * RANDOM.uniform(size=(54, 54)),
    "random": RANDOM.uniform(size=(54, 54)),
    "a ramp": np.linspace(0.0, 1.0, 54 * 54).reshape(54, 54),
    "huge": 1e33 * RANDOM.uniform(size=(54, 54)),
}


@pytest.fixture(scope="module")
def of_map():
    return jax.jit(lambda planes: mean(planes, (0, 1)))


@pytest.mark.parametrize("name", MAPS)
def test_to_a_rounding_and_within_the_range(name, of_map):
    planes = MAPS[name].astype(np.float32)
    found = np.asarray(of_map(planes))
    np.testing.assert_allclose(found, planes.astype(float).mean(), rtol=1e-7)
    assert planes.min() <= found <= planes.max()


def test_of_some_axes():
    values = RANDOM.uniform(size=(3, 4, 2))
    np.testing.assert_allclose(mean(jnp.asarray(values), (0, 1)), values.mean((0, 1)))
    np.testing.assert_allclose(mean(jnp.asarray(values), (0, 1, 2)), values.mean())


def test_the_gradient_is_one_part_each(of_map):
    slope = jax.grad(of_map)(jnp.asarray(MAPS["random"]))
    np.testing.assert_allclose(slope, 1.0 / 54**2)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_stays(value, of_map):
    planes = MAPS["random"].astype(np.float32)
    planes[3, 4] = value
    np.testing.assert_array_equal(of_map(planes), np.float32(value))
