"""The von Mises-Fisher distribution's derivatives beside ones that share nothing with it."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probemb import VonMisesFisher

WIDE = np.longdouble
NODES, WEIGHTS = (np.asarray(x, WIDE) for x in np.polynomial.legendre.leggauss(100))


# Large programs for a few numbers: to optimize them takes longer than to run them.
compiled = functools.partial(
    jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 0}
)


def masses(dimension, concentration, angle):
    """int_0^t and int_0^pi of exp(kappa (cos s - 1)) sin^(D-2) s ds, in panels, for each t."""

    def density(s):
        return np.exp(-2 * concentration * np.sin(s / 2) ** 2) * np.sin(s) ** (dimension - 2)

    def integral(low, high):
        half = (high - low) / 2
        return half * np.sum(WEIGHTS * density(low + half * (1 + NODES)))

    edges = np.concatenate([np.linspace(0, 1, 9) ** 2 * 4, [8, 16, 32]]) / np.sqrt(
        WIDE(concentration) + dimension - 1
    )
    edges = np.unique(np.append(np.minimum(edges, WIDE(np.pi)), [WIDE(np.pi)]))
    panels = [integral(a, b) for a, b in itertools.pairwise(edges)]
    whole = np.cumsum(np.concatenate([[WIDE(0)], panels]))
    place = np.searchsorted(edges, angle, side="right") - 1
    below = np.array([whole[i] + integral(edges[i], t) for i, t in zip(place, angle, strict=True)])
    return below, whole[-1], density(angle)


def moved(dimension, concentration, to, angle):
    """The angle of the same quantile at another concentration, by Newton's method."""
    below, whole, _ = masses(dimension, WIDE(concentration), angle)
    quantile = below / whole
    for _ in range(4):
        below, whole, density = masses(dimension, WIDE(to), angle)
        angle = angle - (below / whole - quantile) * whole / density
    return angle


@compiled
def angles(dimension, concentration):
    """Sampled angles, and their first two derivatives in the concentration."""
    direction = jnp.eye(dimension)[0]

    def sample(concentration):
        return VonMisesFisher(direction, concentration).sample(jax.random.key(0), (2000,))

    def slope(concentration):
        return jax.jvp(sample, (concentration,), (jnp.ones(()),))

    (x, dx), (_, ddx) = jax.jvp(slope, (concentration,), (jnp.ones(()),))
    sine = jnp.linalg.norm(x[:, 1:], axis=1)
    angle = jnp.arctan2(sine, x[:, 0])
    along = jnp.concatenate([-sine[:, None], x[:, 1:] * (x[:, :1] / sine[:, None])], axis=1)
    return angle, jnp.sum(dx * along, axis=1), jnp.sum(ddx * along, axis=1)


@pytest.mark.parametrize(
    "dimension", [2, 64, *(pytest.param(few, marks=pytest.mark.slow) for few in (3, 5))]
)
def test_sampled_angles_move_as_their_quantiles(dimension):
    for concentration in (0.01, 1.0, 30.0, 1e5):
        found = (np.asarray(x) for x in angles(dimension, jnp.asarray(concentration)))
        angle, first, second = found
        # The nearest and the farthest of them, and some between.
        chosen = np.argsort(angle)[[0, 1, 20, 300, 1000, 1700, 1980, 1998, 1999]]
        angle, first, second = (x[chosen] for x in (angle, first, second))
        step = (WIDE(concentration) + dimension) / 2000
        exact = np.asarray(angle, WIDE)
        before, after, far_before, far_after = (
            moved(dimension, concentration, concentration + k * step, exact) for k in (-1, 1, -2, 2)
        )
        slope = (8 * (after - before) - (far_after - far_before)) / (12 * step)
        curvature = (16 * (after + before) - 30 * exact - (far_after + far_before)) / (12 * step**2)
        message = f"concentration {concentration}"
        np.testing.assert_allclose(first, slope.astype(float), rtol=1e-6, err_msg=message)
        scale = np.abs(curvature).max().astype(float)
        np.testing.assert_allclose(
            second, curvature.astype(float), rtol=1e-4, atol=1e-5 * scale, err_msg=message
        )


def cumulants(dimension, concentration):
    """By quadrature: the mean of 1 - cos t, the next three cumulants of cos t, and of (1 - cos t)^2
    the mean and the two joint cumulants with one and two cos t."""
    reach = min(WIDE(np.pi), 40 / np.sqrt(WIDE(concentration) + dimension - 1))
    edges = np.linspace(0, reach, 33)
    half = np.diff(edges)[:, None] / 2
    t = edges[:-1, None] + half * (1 + NODES)
    weight = half * WEIGHTS * np.exp(-2 * concentration * np.sin(t / 2) ** 2)
    weight *= (np.sin(t) * np.sqrt(WIDE(concentration) + 1)) ** (dimension - 2)
    weight /= weight.sum()
    missing = 2 * np.sin(t / 2) ** 2

    def mean(values):
        return np.sum(weight * values)

    first, square = mean(missing), mean(missing**2)
    cosine = first - missing  # less its mean
    second = mean(cosine**2)
    apart = missing**2 - square
    return {
        "rest": first,
        "cumulants": (second, mean(cosine**3), mean(cosine**4) - 3 * second**2),
        "square": (square, mean(apart * cosine), mean(apart * cosine**2)),
    }


def exact_moments(dimension, of_p, of_q):
    """By name: value, first and second derivative in p's concentration, q's for the last."""
    p, q = (cumulants(dimension, WIDE(k)) for k in (of_p, of_q))
    two, three, four = p["cumulants"]
    apart = WIDE(of_p) - WIDE(of_q)
    # sin^2 = 2 (1 - cos) - (1 - cos)^2, a share of it for every direction across.
    across = [2 * a - b for a, b in zip((p["rest"], -two, -three), p["square"], strict=True)]
    return {
        "length": (1 - p["rest"], two, three),
        "along": (two, three, four),
        "across": tuple(x / (dimension - 1) for x in across),
        "entropy": (None, -of_p * two, -two - of_p * three),
        "kl": (None, apart * two, two + apart * three),
        "kl_of_q": (None, p["rest"] - q["rest"], q["cumulants"][0]),
    }


@functools.partial(compiled, static_argnums=(0, 1))
def derivatives(function, dimension, concentration, other):
    """Of a function of two distributions, in the concentration of the first."""
    direction = jnp.zeros((*other.shape, dimension), other.dtype).at[:, 0].set(1.0)

    def of_first(concentration):
        first, second = (VonMisesFisher(direction, x) for x in (concentration, other))
        return function(first, second)

    def slope(x):
        return jax.jvp(of_first, (x,), (jnp.ones_like(x),))

    (value, first), (_, second) = jax.jvp(slope, (concentration,), (jnp.ones_like(other),))
    return {name: (value[name], first[name], second[name]) for name in value}


# One program of all of them takes twice as long to compile.
def moments_of_p(p, _):
    along, across = p.variance[:, :2].T
    return {"length": p.mean_resultant_length, "along": along, "across": across}


def entropy_of_p(p, _):
    return {"entropy": p.entropy()}


def divergence_of_p(p, q):
    return {"kl": p.kl_divergence(q)}


def divergence_of_q(q, p):
    return {"kl_of_q": p.kl_divergence(q)}


@pytest.mark.parametrize(
    ("dimension", "dtype"),
    [
        (2, np.float32),
        (2, np.float64),
        (64, np.float64),
        pytest.param(64, np.float32, marks=pytest.mark.slow),
    ],
)
def test_moments_and_divergences_have_the_derivatives_of_the_integral(dimension, dtype):
    of_p = np.array([0.5, 30.0, 1e3, 1.9e4, 2.1e4, 1e5, 1e7], dtype)
    found = {}
    for function in (moments_of_p, entropy_of_p, divergence_of_p):
        found |= derivatives(function, dimension, of_p, of_p / 4)
    found |= derivatives(divergence_of_q, dimension, of_p / 4, of_p)
    rtol = 2e-3 if dtype == np.float32 else 1e-6
    for place, concentration in enumerate(of_p):
        exact = exact_moments(dimension, concentration, concentration / 4)
        for name, of_orders in exact.items():
            for order, expected in enumerate(of_orders):
                if expected is not None:
                    np.testing.assert_allclose(
                        found[name][order][place],
                        float(expected),
                        rtol=rtol,
                        err_msg=f"{name}, derivative {order}, concentration {concentration}",
                    )
