import jax
import jax.numpy as jnp
import numpy as np
import pytest

import probemb
from probemb import DiagonalGaussian
from probemb.numerics import reduction


def pairs(batch, dimension=32):
    means = np.random.default_rng(0).normal(size=(2, batch, dimension)).astype(np.float32)
    return tuple(DiagonalGaussian(mean, np.zeros_like(mean)) for mean in means)


def samples(batch):
    return tuple(
        np.repeat(p.mean[:, None], 4, axis=1) + np.arange(4, dtype=np.float32)[None, :, None]
        for p in pairs(batch)
    )


LOSSES = {
    "pcme_of_samples": (
        samples,
        lambda x, y: probemb.pcme_of_samples(x, y, negative_scale=1.0, shift=1.0),
    ),
    "pcme_quadrature": (
        lambda batch: pairs(batch // 8),
        lambda p, q: probemb.pcme_quadrature(p, q, negative_scale=1.0, shift=1.0),
    ),
    "pcmepp": (pairs, lambda p, q: probemb.pcmepp(p, q, negative_scale=1.0, shift=1.0)),
    "prolip": (pairs, lambda p, q: probemb.prolip(p, q, logit_scale=1.0, logit_bias=1.0)),
    "siglip": (pairs, lambda p, q: probemb.siglip(p, q, logit_scale=1.0, logit_bias=1.0)),
    "info_nce": (pairs, lambda p, q: probemb.info_nce(p, q, logit_scale=1.0)),
    "triplet": (pairs, lambda p, q: probemb.triplet(p, q)),
    "uniformity": (pairs, lambda p, q: probemb.uniformity(p.mean)),
}


def temporary_bytes(loss, inputs):
    lowered = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*inputs)
    # It never runs, and what it holds does not depend on how its loops are optimized.
    compiled = lowered.compile({"xla_backend_optimization_level": 0})
    return compiled.memory_analysis().temp_size_in_bytes


# A quadrature compiles ten times as long as the others.
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n == "pcme_quadrature" else n for n in LOSSES],
)
def test_memory_grows_with_the_batch_not_with_its_square(monkeypatch, name):
    inputs, loss = LOSSES[name]
    monkeypatch.setattr(reduction, "TILE", 2**12)
    monkeypatch.setattr(reduction, "_FEW_ROWS", 8)
    small, large = (temporary_bytes(loss, inputs(batch)) for batch in (512, 2048))
    # 16 times the pairs; values of columns are held for the root of the number of blocks.
    has_column_values = name in ("info_nce", "triplet")
    assert large < (9 if has_column_values else 5) * small


def products(jaxpr):
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products(inner)


# pcme_quadrature subtracts means pair by pair, without a product.
@pytest.mark.parametrize("name", sorted(LOSSES.keys() - {"pcme_quadrature"}))
def test_every_matrix_product_asks_for_full_precision(name):
    inputs, loss = LOSSES[name]
    jaxpr = jax.make_jaxpr(jax.value_and_grad(loss, (0, 1)))(*inputs(16)).jaxpr
    found = list(products(jaxpr))
    assert found
    highest = jax.lax.Precision.HIGHEST
    for equation in found:
        assert equation.params["precision"] == (highest, highest)


def test_rows_and_columns_merge_over_uneven_blocks(monkeypatch):
    monkeypatch.setattr(reduction, "TILE", 15)
    monkeypatch.setattr(reduction, "_FEW_ROWS", 1)
    x, y = np.arange(7.0), np.arange(5.0)

    def tile(rows, columns, scale):
        table = scale * rows[:, None] + columns[None]
        return jnp.sum(table, axis=1), jnp.sum(table, axis=0)

    of_rows, of_columns = reduction.reduce_pairs(tile, reduction.total, x, y, 10.0)
    table = 10.0 * x[:, None] + y[None]
    np.testing.assert_array_equal(of_rows, table.sum(1))
    np.testing.assert_array_equal(of_columns, table.sum(0))
