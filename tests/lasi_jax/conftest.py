"""Strict promotion, the reference values, and a brute-force LASI in NumPy float64."""

import functools
import itertools
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from jax.test_util import check_vjp

from lasi_jax.native import build

GOLDEN = Path(__file__).parents[1] / "golden" / "lasi_reference.npz"


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def _cases() -> dict[str, SimpleNamespace]:
    with np.load(GOLDEN) as archive:
        names = sorted({key.split("/")[0] for key in archive})
        fields = ("x", "y", "neighbor_index", "params_x", "prediction_x", "distance")
        return {
            name: SimpleNamespace(
                n=int(archive[f"{name}/neighborhood_size"]),
                **{field: archive[f"{name}/{field}"] for field in fields},
            )
            for name in names
        }


@pytest.fixture(scope="session", params=_cases().items(), ids=lambda case: case[0])
def golden(request):
    return request.param[1]


def neighbors(shape, n):
    """Straight from the definition: sort all earlier elements by distance, then flat index."""
    positions = list(itertools.product(*map(range, shape)))
    index = np.full((len(positions), n), -1)
    for t, here in enumerate(positions):
        away = [
            sum(abs(a - b) for a, b in zip(here, there, strict=True)) for there in positions[:t]
        ]
        nearest = sorted(range(t), key=lambda j: (away[j], j))[:n]
        index[t, : len(nearest)] = nearest
    return index


def coefficients(image, n, mask=None, decay=0.8, ridge=80 / 127.5, prior=0.0):
    """A weighted least squares at every element, over all earlier elements, in [-1, 1].

    The ridge is n more examples: of each neighbour alone, of the value prior / n.
    """
    values = np.asarray(image, np.float64).reshape(-1)
    weights = np.ones_like(values) if mask is None else np.asarray(mask, np.float64).reshape(-1)
    index = neighbors(image.shape, n)
    phi = np.where(index < 0, 0.0, values[index])
    positions = np.array(list(itertools.product(*map(range, image.shape))))
    theta = np.zeros((len(values), n))
    for t in range(len(values)):
        w = weights[:t] * decay ** np.abs(positions[:t] - positions[t]).sum(1)
        examples = np.concatenate([phi[:t] * np.sqrt(w)[:, None], np.sqrt(ridge) * np.eye(n)])
        wanted = np.concatenate([values[:t] * np.sqrt(w), np.full(n, np.sqrt(ridge) * prior / n)])
        theta[t] = np.linalg.lstsq(examples, wanted)[0]
    return theta.reshape(*image.shape, n)


def distance_map(x, y, n, mask=None, prior=0.0):
    directions = []
    for image in (x, y):
        shifted = coefficients(image, n, mask, prior=prior) + 1e-6
        directions.append(shifted / np.linalg.norm(shifted, axis=-1, keepdims=True))
    return np.linalg.norm(directions[0] - directions[1], axis=-1)


@pytest.fixture(scope="session")
def brute_force():
    return SimpleNamespace(
        neighbors=neighbors, coefficients=coefficients, distance_map=distance_map
    )


@pytest.fixture(scope="session")
def jit():
    """`jax.jit` for float64 that is compared once: optimizing it takes longer than running it."""
    return functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="session")
def check_gradients(jit):
    """check(function, arguments): its gradients in reverse mode equal finite differences."""

    def check(function, arguments):
        value = jit(lambda *arguments: function(*arguments))
        pull_back = jit(lambda arguments, by: jax.vjp(function, *arguments)[1](by))

        def with_pull_back(*arguments):
            return value(*arguments), functools.partial(pull_back, arguments)

        check_vjp(value, with_pull_back, arguments)

    return check


@pytest.fixture
def in_form(monkeypatch):
    """in_form("native" or "XLA", function)(...): the function's results in one form."""

    def run(form, function):
        def call(*arguments):
            monkeypatch.setenv(build.SWITCH, str(int(form == "native")))
            return jax.jit(lambda *arguments: function(*arguments))(*arguments)

        return call

    return run


@pytest.fixture
def forgotten():
    """forgotten(): what was found out about the kernel, so that it is found out anew."""
    yield build.forget
    build.forget()
