"""Programs for accelerators, lowered where there is none."""

import jax
import numpy as np
import pytest
from jax import export

import lasi_jax
from lasi_jax.wls.tiling import tiling


def distance(x, y):
    return lasi_jax.distance(x, y, neighborhood_size=3)


FUNCTIONS = {"distance": distance, "gradient": jax.grad(distance), "batch": jax.vmap(distance)}


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_lowers_for_accelerators_with_their_block(name, platform, monkeypatch):
    monkeypatch.setenv("LASI_JAX_NATIVE", "1")  # which is for CPUs alone
    shape = (256, 256, 3)
    tiles = [
        "x".join(map(str, (*cut.counts, cut.rows))) + "xf32>"
        for cut in (tiling(shape, 2, cpu=cpu) for cpu in (True, False))
    ]
    image = jax.ShapeDtypeStruct(((4,) if name == "batch" else ()) + shape, np.float32)
    program = export.export(jax.jit(FUNCTIONS[name]), platforms=[platform])(image, image)
    text = program.mlir_module()
    assert "custom_call" not in text
    assert tiles[1] in text and tiles[0] not in text


def test_a_program_exported_for_a_cpu_needs_no_kernel(monkeypatch):
    monkeypatch.setenv("LASI_JAX_NATIVE", "1")
    x, y = np.random.default_rng(0).uniform(size=(2, 8, 9, 3)).astype(np.float32)
    program = export.export(jax.jit(distance), platforms=["cpu"])(x, y)
    assert "custom_call" not in program.mlir_module()
    np.testing.assert_allclose(program.call(x, y), distance(x, y), rtol=1e-5)
