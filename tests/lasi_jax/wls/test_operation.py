import jax
import numpy as np
import pytest

from lasi_jax.wls.operation import Operation


def _scaled(options, a, b, *, cpu):
    scale = 1.0 if b is None else b
    return scale * a, a + options


scaled = Operation("scaled", _scaled, lambda _, a, __: [a.shape, a.shape], lambda *_: None)


@pytest.mark.parametrize("given", [True, False])
def test_a_batch_of_batches_with_what_is_no_batch(given):
    a, b = np.arange(24.0).reshape(2, 3, 1, 4), np.arange(4.0)[None]
    b = b if given else None
    product, total = jax.vmap(jax.vmap(lambda a: scaled(2.0, a, b)))(a)
    np.testing.assert_array_equal(product, a * b if given else a)
    np.testing.assert_array_equal(total, a + 2.0)
    aside = a[0].swapaxes(0, 1)
    across = jax.vmap(lambda a: scaled(2.0, a, b), in_axes=1, out_axes=1)(aside)
    np.testing.assert_array_equal(across[1], aside + 2.0)
