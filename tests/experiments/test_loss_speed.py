import jax
import numpy as np
import pytest

from experiments import loss_speed


@pytest.mark.parametrize(
    ("plain", "blocked", "inputs"),
    [
        (
            loss_speed.plain_pcme,
            loss_speed.blocked_pcme,
            lambda key: loss_speed.samples(key, 6, 3, 8),
        ),
        (
            loss_speed.plain_pcmepp,
            loss_speed.blocked_pcmepp,
            lambda key: loss_speed.gaussians(key, 6, 8),
        ),
    ],
    ids=["pcme", "pcmepp"],
)
def test_both_versions_compute_the_same_loss_and_gradient(plain, blocked, inputs):
    arguments = jax.tree.map(lambda x: x.astype(float), inputs(jax.random.key(0)))
    one, other = (jax.jit(loss_speed.with_gradient(loss))(*arguments) for loss in (blocked, plain))
    assert loss_speed.difference(one, other) < 1e-9


def test_the_difference_sees_a_wrong_gradient():
    right = (np.float64(1.0), np.ones(3))
    assert loss_speed.difference((np.float64(1.0), np.array([1.0, 1.0, 1.5])), right) == 0.5
