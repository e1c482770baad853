"""Nothing is compiled when a public function is called a second time outside of `jit`."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import lasi_jax
from lasi_jax import competition, deep_features, structural

RANDOM = np.random.default_rng(0)
OPTIONS = {"neighborhood_size": 2}
compilations = []
jax.monitoring.register_event_duration_secs_listener(
    lambda name, *_, **__: compilations.append(name) if name.endswith("compile_duration") else None
)


def image(shape=(7, 8)):
    return RANDOM.uniform(0.1, 0.9, shape).astype(np.float32)


def squares(x, y):
    return jnp.sum(jnp.square(x - y))


def fourth(x, y):
    return jnp.sum(jnp.square(jnp.square(x - y)))


def pair_of(function, shape=(7, 8), **options):
    return lambda: function(image(shape), image(shape), **options)


def of_features(function):
    return pair_of(function, (7, 8, 2), features=lambda x: [x, x[::2]])


def step():
    metrics = {"held": squares, "moved": fourth}
    state = competition.begin(image(), image(), **metrics)
    return competition.step(image(), state, direction="least", **metrics)


SEARCH = {"held": squares, "moved": fourth, "direction": "least", "num_steps": 2}
CALLS = {
    "distance": pair_of(lasi_jax.distance, **OPTIONS),
    "distance_map": pair_of(lasi_jax.distance_map, **OPTIONS),
    "coefficients": lambda: lasi_jax.coefficients(image(), **OPTIONS),
    "embedding": lambda: lasi_jax.embedding(image(), **OPTIONS),
    "prediction": lambda: lasi_jax.prediction(image(), **OPTIONS),
    "structural.ssim": pair_of(structural.ssim, (12, 12)),
    "structural.ssim_map": pair_of(structural.ssim_map, (12, 12)),
    "structural.ms_ssim": pair_of(structural.ms_ssim, (22, 22), weights=(0.5, 0.5)),
    "deep_features.distance": of_features(deep_features.distance),
    "deep_features.distance_map": of_features(deep_features.distance_map),
    "deep_features.feature_reconstruction": of_features(deep_features.feature_reconstruction),
    "deep_features.style_reconstruction": of_features(deep_features.style_reconstruction),
    "deep_features.deepsim": of_features(deep_features.deepsim),
    "competition.begin": pair_of(competition.begin, held=squares, moved=fourth),
    "competition.step": step,
    "competition.differentiate": pair_of(competition.differentiate, **SEARCH),
    "competition.compete": pair_of(competition.compete, first=squares, second=fourth, num_steps=2),
}
GRADIENTS = {
    "a gradient": lambda: jax.grad(functools.partial(lasi_jax.distance, **OPTIONS))(
        jnp.asarray(image()), image()
    ),
    "a batch": lambda: jax.vmap(functools.partial(lasi_jax.distance, **OPTIONS))(
        image((2, 7, 8)), image((2, 7, 8))
    ),
}


def test_every_public_function_is_called():
    public = {name for name in lasi_jax.__all__ if inspect.isfunction(getattr(lasi_jax, name))}
    for module in (structural, deep_features, competition):
        name = module.__name__.split(".")[-1]
        public |= {
            f"{name}.{each}"
            for each, function in inspect.getmembers(module, inspect.isfunction)
            if not each.startswith("_") and function.__module__ == module.__name__
        }
    assert public == set(CALLS)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CALLS, *GRADIENTS])
def test_a_second_call_compiles_nothing(name):
    call = (CALLS | GRADIENTS)[name]
    call()
    compilations.clear()
    call()
    assert not compilations
    jax.jit(lambda x: x + len(compilations))(1.0)
    assert compilations  # it does count
