import jax
import numpy as np
import pytest

import lasi_jax
from experiments import lasi_speed


@pytest.mark.parametrize(
    "quadratic",
    [
        lasi_speed.quadratic_by_sum,
        lasi_speed.quadratic_by_element,
        lasi_speed.quadratic_by_product,
    ],
)
def test_the_quadratic_versions_compute_the_same_distance(quadratic):
    x, y = np.random.default_rng(0).uniform(size=(2, 7, 6, 3))
    expected = lasi_jax.distance(x, y, neighborhood_size=4)
    found = jax.jit(quadratic, static_argnums=2)(x, y, 4)
    assert float(found) == pytest.approx(float(expected), abs=1e-9)
