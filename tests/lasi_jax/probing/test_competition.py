import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

import lasi_jax
from lasi_jax import competition

RANDOM = np.random.default_rng(0)
X = RANDOM.uniform(0.2, 0.8, (4, 4))
START = X + RANDOM.normal(0.0, 0.1, (4, 4))
WIDE = (-9.0, 9.0)
# A symmetric matrix with known eigenvalues, none near another.
BASIS = np.linalg.qr(RANDOM.normal(size=(16, 16)))[0]
EIGENVALUES = np.linspace(1.0, 16.0, 16)


def squares(x, y):
    return jnp.sum(jnp.square(x - y))


def weighted(x, y):
    """The weights are those of `EIGENVALUES`, element by element."""
    weights = jnp.asarray(EIGENVALUES, y.dtype).reshape(y.shape)
    return jnp.sum(weights * jnp.square(x - y))


def rotated(x, y):
    coordinates = jnp.sum(jnp.asarray(BASIS.T, y.dtype) * (x - y).reshape(1, -1), axis=1)
    return weighted(jnp.zeros_like(coordinates), coordinates)


def fourth(x, y):
    return jnp.mean(jnp.square(jnp.square(x - y)))


def compiled(function, **options):
    """As users run it, but for optimizing what runs once: that takes longer than running it."""
    faster = {"xla_backend_optimization_level": 0}
    return jax.jit(functools.partial(function, **options), compiler_options=faster)


def differentiate(x, y, **options):
    return compiled(competition.differentiate, **options)(x, y)


def check(trajectory, direction, value_range=(0.0, 1.0)):
    """What every trajectory promises."""
    chex.assert_tree_all_finite(trajectory)
    held, moved = np.asarray(trajectory.held), np.asarray(trajectory.moved)
    np.testing.assert_allclose(held, held[0], rtol=1e-4)
    steps = np.diff(moved) if direction == "greatest" else -np.diff(moved)
    assert (steps >= 0.0).all() and (steps > 0.0).any()
    low, high = value_range
    assert low <= trajectory.image.min() and trajectory.image.max() <= high


@pytest.mark.parametrize(("direction", "eigenvalue"), [("least", 0), ("greatest", 15)])
def test_extremes_on_a_sphere_are_eigenvectors(direction, eigenvalue):
    dtype, tolerance = (np.float32, 1e-4) if direction == "least" else (np.float64, 1e-6)
    x, start = X.astype(dtype), START.astype(dtype)
    options: dict[str, Any] = {"num_steps": 200, "value_range": WIDE, "direction": direction}
    trajectory = differentiate(x, start, held=squares, moved=rotated, **options)
    check(trajectory, direction, WIDE)
    assert trajectory.image.dtype == trajectory.held.dtype == trajectory.moved.dtype == dtype
    level = np.sum((X - START) ** 2)
    expected = level * EIGENVALUES[eigenvalue]
    np.testing.assert_allclose(trajectory.moved[-1], expected, rtol=tolerance)
    cosine = BASIS[:, eigenvalue] @ np.asarray(trajectory.image - x).reshape(-1) / np.sqrt(level)
    np.testing.assert_allclose(abs(cosine), 1.0, atol=10 * tolerance)
    np.testing.assert_allclose(trajectory.held, level, rtol=1e-5 if dtype == np.float32 else 1e-10)


def test_extreme_on_an_ellipsoid():
    options = {"num_steps": 200, "value_range": WIDE, "direction": "greatest"}
    trajectory = differentiate(X, START, held=weighted, moved=squares, **options)
    check(trajectory, "greatest", WIDE)
    np.testing.assert_allclose(trajectory.moved[-1], trajectory.held[0] / EIGENVALUES[0], rtol=1e-6)


@pytest.mark.parametrize("direction", ["least", "greatest"])
def test_extremes_where_the_range_binds(direction):
    """A linear program in the squares: those that count most (least) are filled one by one."""
    x = np.full((4, 4), 0.5)
    start = np.asarray(
        0.5 + 0.4 * np.sign(RANDOM.normal(size=x.shape)) * RANDOM.uniform(size=(4, 4))
    )
    options: dict[str, Any] = {"num_steps": 300, "direction": direction}
    trajectory = differentiate(x, start, held=squares, moved=weighted, **options)
    check(trajectory, direction)
    level, weights = np.sum((x - start) ** 2), np.sort(EIGENVALUES)
    weights = weights if direction == "least" else weights[::-1]
    filled = np.clip(level - 0.25 * np.arange(16), 0.0, 0.25)
    assert filled[0] == 0.25
    np.testing.assert_allclose(trajectory.moved[-1], weights @ filled, rtol=1e-4)


def test_directions_lie_in_the_plane_and_lead_out_of_no_bound():
    """Against a slow bisection of the multiplier; Newton's steps alone circle in some cases."""
    cases = 1000
    image = RANDOM.choice([0.0, 0.5, 1.0], (cases, 4), p=[0.45, 0.1, 0.45])
    normal = RANDOM.normal(size=image.shape) * RANDOM.choice([1.0, 5.0], image.shape)
    v = RANDOM.normal(size=image.shape)
    project = functools.partial(competition._project, value_range=(0.0, 1.0))
    projected = jax.jit(jax.vmap(project))(*map(jnp.asarray, (v, normal, image)))

    def inside(multiplier):
        d = v - multiplier[:, None] * normal
        return np.where((image == 0.0) & (d < 0.0) | (image == 1.0) & (d > 0.0), 0.0, d)

    below, above = np.full(cases, -1e3), np.full(cases, 1e3)
    for _ in range(80):
        middle = 0.5 * (below + above)
        excess = np.sum(inside(middle) * normal, axis=1)
        below, above = np.where(excess > 0, middle, below), np.where(excess > 0, above, middle)
    np.testing.assert_allclose(projected, inside(middle), atol=1e-9)


def test_the_four_images_of_two_metrics():
    options: dict[str, Any] = {"num_steps": 20, "value_range": WIDE}
    compete = compiled(competition.compete, first=squares, second=fourth, **options)
    result = compete(X, START)
    for name, trajectory in result._asdict().items():
        moved_name, direction = name.split("_")
        held, moved = (fourth, squares) if moved_name == "first" else (squares, fourth)
        check(trajectory, direction, WIDE)
        assert trajectory.held.shape == trajectory.moved.shape == (21,)
        values = held(X, trajectory.image), moved(X, trajectory.image)
        np.testing.assert_allclose(values, (trajectory.held[-1], trajectory.moved[-1]), rtol=1e-9)
    alone = differentiate(X, START, held=squares, moved=fourth, direction="greatest", **options)
    chex.assert_trees_all_close(result.second_greatest, alone, rtol=1e-5)
    np.testing.assert_allclose(result.second_least.held[0], squares(X, START))


@pytest.mark.slow
def test_steps_in_a_loop_eager_jit_and_vmap_agree():
    metrics: dict[str, Any] = {"held": squares, "moved": fourth}
    options: dict[str, Any] = metrics | {"direction": "greatest"}
    trajectory = competition.differentiate(X, START, num_steps=4, **options)
    states, step = [competition.begin(X, START, **metrics)], compiled(competition.step, **options)
    for _ in range(4):
        states.append(step(X, states[-1]))
    chex.assert_trees_all_close(states[-1].image, trajectory.image, rtol=1e-9)
    for gradient, metric in (
        (states[-1].held_gradient, squares),
        (states[-1].moved_gradient, fourth),
    ):
        chex.assert_trees_all_close(gradient, jax.grad(metric, 1)(X, states[-1].image), rtol=1e-9)
    np.testing.assert_allclose([state.moved for state in states], trajectory.moved, rtol=1e-9)
    starts = jnp.stack([START, X + 0.1 * BASIS[:4, :4]])
    run = functools.partial(competition.differentiate, num_steps=4, **options)
    batch = compiled(jax.vmap(run, (None, 0)))(X, starts)
    chex.assert_trees_all_close(jax.tree.map(lambda leaf: leaf[0], batch), trajectory, rtol=1e-9)
    assert batch.moved.shape == (2, 5)


def test_the_range_is_a_unit():
    options: dict[str, Any] = {
        "held": squares,
        "moved": fourth,
        "direction": "least",
        "num_steps": 15,
    }
    trajectory = differentiate(X, START, **options)
    wide = differentiate(256.0 * X, 256.0 * START, value_range=(0.0, 256.0), **options)
    np.testing.assert_allclose(wide.image, 256.0 * trajectory.image, rtol=1e-6)


def test_lasi_keeps_its_value():
    x = np.asarray(RANDOM.uniform(0.2, 0.8, (8, 8)), np.float32)
    start = np.asarray(x + RANDOM.normal(0.0, 0.1, x.shape), np.float32)
    lasi = functools.partial(lasi_jax.distance, neighborhood_size=3)
    options: dict[str, Any] = {"direction": "least", "num_steps": 30}
    trajectory = differentiate(x, start, held=lasi, moved=squares, **options)
    check(trajectory, "least")
    assert trajectory.moved[-1] < 0.6 * trajectory.moved[0]
    np.testing.assert_allclose(lasi(x, trajectory.image), lasi(x, start), rtol=1e-4)


@pytest.mark.parametrize("elsewhere", [2.0, 1.0 + 9e-5])
def test_a_level_that_cannot_be_reached_refuses_the_step(elsewhere):
    def jumps(x, y):
        return jnp.where(jnp.all(y == START), 1.0, elsewhere) + 0.0 * jnp.sum(x - y)

    metrics: dict[str, Any] = {"held": jumps, "moved": squares}
    state = begun = competition.begin(X, START, **metrics)
    step = compiled(competition.step, direction="least", **metrics)
    for _ in range(3):
        state = step(X, state)
    np.testing.assert_array_equal(state.image, START)
    assert state.step_length == begun.step_length / 8 and state.held == 1.0


@pytest.mark.parametrize("floor", [-np.inf, 0.0], ids=["value", "gradient"])
def test_metrics_that_end_in_nan_are_not_followed(floor):
    x = np.full((4, 4), 0.5, np.float32)
    start = x + np.linspace(0.01, 0.16, 16, dtype=np.float32).reshape(4, 4)

    def ends(x, y):
        """NaN, or without a gradient, if an element is farther than 0.2."""
        return 4.0 - jnp.sum(jnp.sqrt(jnp.maximum(0.04 - jnp.square(x - y), floor)))

    metrics: dict[str, Any] = {"held": squares, "moved": ends}
    state = begun = competition.begin(x, start, **metrics)
    step = compiled(competition.step, direction="greatest", **metrics)
    for _ in range(30):
        state = step(x, state)
        chex.assert_tree_all_finite(state)
    assert state.moved > begun.moved and jnp.abs(x - state.image).max() < 0.2


def test_a_start_that_rounding_put_outside_the_range_is_clipped():
    start = START.copy()
    start[0, 0], start[3, 3] = 1.0 + 5e-7, -5e-7
    image = competition.begin(X, start, held=squares, moved=fourth).image
    np.testing.assert_array_equal(image, np.clip(start, 0.0, 1.0))


def test_under_jit_a_start_at_the_reference_stays():
    trajectory = differentiate(X, X, held=squares, moved=fourth, direction="greatest", num_steps=3)
    np.testing.assert_array_equal(trajectory.image, X)
    np.testing.assert_array_equal((trajectory.held, trajectory.moved), 0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_under_jit_every_loop_ends_and_checkify_tells(value):
    run = functools.partial(
        competition.differentiate, held=squares, moved=fourth, direction="greatest", num_steps=3
    )
    start = START.copy()
    start[0, 1] = value
    trajectory = jax.block_until_ready(jax.jit(run)(X, start))
    assert not np.isfinite(trajectory.held).all() or np.isfinite(trajectory.image).all()
    error, _ = checkify.checkify(jax.jit(run))(X, start)
    assert "y must lie in value_range (0, 1) and hold no NaN" in error.get()


def test_under_jit_checkify_tells_of_a_start_at_the_reference():
    begin = checkify.checkify(functools.partial(competition.begin, held=squares, moved=fourth))
    assert "y, the start, must differ from the reference x" in begin(X, X)[0].get()
    assert begin(X, START)[0].get() is None


def test_images_in_another_byte_order():
    swapped = competition.differentiate(X.astype(">f8"), START.astype(">f8"), **OPTIONS)
    expected = competition.differentiate(X, START, **OPTIONS)
    chex.assert_trees_all_equal(swapped, expected)


def test_a_metric_that_cannot_be_hashed():
    class Squares:
        __hash__ = None  # pyright: ignore[reportAssignmentType]

        def __call__(self, x, y):
            return squares(x, y)

    found = competition.differentiate(X, START, **(OPTIONS | {"held": Squares()}))
    chex.assert_trees_all_equal(found, competition.differentiate(X, START, **OPTIONS))


def test_a_moved_metric_that_does_not_change_moves_nothing():
    def constant(x, y):
        return 1.0 + 0.0 * jnp.sum(x - y)

    trajectory = differentiate(
        X, START, held=squares, moved=constant, direction="least", num_steps=3
    )
    np.testing.assert_array_equal(trajectory.image, START)
    np.testing.assert_array_equal(trajectory.moved, 1.0)


def root(x, y):
    """Its gradient is NaN at y = x."""
    return jnp.sqrt(jnp.sum(jnp.square(x - y)))


OPTIONS: dict[str, Any] = {"held": squares, "moved": fourth, "direction": "least", "num_steps": 2}


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        ((X, START[:3]), {}, ValueError, r"one shape, got \(4, 4\) and \(3, 4\)"),
        ((X, START[0]), {}, ValueError, "y must have at least two axes"),
        ((X, START > 0.5), {}, TypeError, "y must be floating point or uint8, .* got dtype bool"),
        ((X, START.astype(np.float16)), {}, TypeError, "y must be float32 or float64, got dty"),
        (
            (X.astype(np.float16), START),
            {},
            TypeError,
            "x must be float32 or float64, got dtype fl",
        ),
        (((255 * X).astype(np.uint8), START), {}, TypeError, "x must be float32 .* dtype uint8"),
        ((X, START.tolist()), {"direction": "up"}, ValueError, "'least' or 'greatest', got 'up'"),
        ((X, START), {"direction": ["least"]}, ValueError, r"'greatest', got \['least'\]"),
        ((X, START + 1.0), {}, ValueError, r"y must lie in value_range \(0, 1\) and hold no NaN"),
        ((X, START * np.nan), {}, ValueError, "y must lie in value_range .*, got values from nan"),
        ((X, START), {"value_range": (1.0, 0.0)}, ValueError, "value_range must be two finite"),
        ((X, X), {}, ValueError, "y, the start, must differ from the reference x under .* got 0"),
        ((X, START), {"held": lambda x, y: squares(x, y) * jnp.nan}, ValueError, "differ .* nan"),
        ((X, START), {"moved": lambda x, y: squares(x, y) / 0.0}, ValueError, "moved must be fini"),
        (
            (X, START),
            {"moved": lambda x, y: root(START, y)},
            ValueError,
            "moved must be finite at the start y, as must its gradient, got the value 0",
        ),
        ((X, START), {"held": lambda x, y: x - y}, TypeError, r"held must ret.* shape \(4, 4\)"),
        (
            (X, START),
            {"moved": lambda x, y: 1.0},
            TypeError,
            "moved must return a .* of shape None",
        ),
        ((X, START), {"moved": lambda x, y: jnp.int32(1)}, TypeError, "moved must return .* int32"),
        ((X, START), {"held": "mse"}, TypeError, "held must be a function .* got 'mse'"),
        ((X, START), {"num_steps": 0}, ValueError, "num_steps must be at least 1, got 0"),
        ((X, START), {"num_steps": 2.0}, TypeError, "num_steps must be an integer, got 2.0"),
        ((X, START), {"num_steps": True}, TypeError, "num_steps must be an integer, got True"),
    ],
)
def test_bad_input(images, options, error, message):
    with pytest.raises(error, match=message):
        competition.differentiate(*images, **(OPTIONS | options))


def test_bad_input_of_a_step_and_of_a_competition():
    state = competition.begin(X, START, held=squares, moved=fourth)
    options: dict[str, Any] = {"held": squares, "moved": fourth, "direction": "least"}
    with pytest.raises(ValueError, match=r"x must have the image's shape \(4, 4\), got \(3, 4\)"):
        competition.step(X[:3], state, **options)
    with pytest.raises(TypeError, match="x must be float32 or float64, got dtype uint8"):
        competition.step((255 * X).astype(np.uint8), state, **options)
    with pytest.raises(ValueError, match="'least' or 'greatest', got 1"):
        competition.step(X, state, **{**options, "direction": 1})
    with pytest.raises(ValueError, match="num_steps must be at least 1, got 0"):
        competition.compete(X, START, first=squares, second=fourth, num_steps=0)
