"""Maximum differentiation: the images on which two metrics differ most.

A metric is a function (x, y) -> distance of an image y to its reference x,
differentiable in y; images are (height, width) or (height, width, channel),
channels last, for the metrics of this package, and a batch goes through
`jax.vmap`. From a start y the `held` metric keeps its value, the level, while the
`moved` metric goes to its least or its greatest value. What people see in the two
extremes tells how good the held metric is: if the extremes look equally far from
x, it is the moved metric that was wrong.

One step from y, where h and m are the gradients of the held and of the moved
metric, and clip cuts to the range of the values:

    d   = +-(m - lambda h)  with <d, h> = 0, plus what is left of the step before
    y'  = clip(y + length d)
    y'' = clip(y' + t h)  with  held(x, y'') = held(x, y_0)

Elements at a bound that d would push beyond it do not count. A step is taken
only if the moved metric went the wanted way; otherwise y stays and the next
step is half as long. Hence every image on the way lies on the level set and in
the range, and the moved metric is monotone.

The loops are compiled once for each pair of metrics that are the same functions at
every call; in `jit`, with the metrics and the options bound by `functools.partial`,
everything is. There the values of x and y are not looked at: floats of 0..255 at the
default range are wrong in silence, unless the caller checks by
`jax.experimental.checkify`.
"""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from numpy.typing import ArrayLike

from lasi_jax import images
from lasi_jax.batching import zero

Metric = Callable[[Any, Any], jax.Array]

_SIGNS = {"least": -1.0, "greatest": 1.0}

# Lengths are the root mean square of a step as a part of the range's width. Too long a first step
# is halved at once; growing slowly wastes few steps on refusals.
_FIRST_LENGTH = 0.02
_GROWTH = 1.1
_MOMENTUM = 0.9

# The level is promised to 1e-4 of itself. Half is for another program's rounding of the metric.
_TOLERANCE = 5e-5
# The search stops earlier: the slack of one step is the noise in the gain of the next.
_KEPT_DIGITS = 0.75
_MOST_EVALUATIONS = 8
# How far beyond two points their secant is followed, in units of their distance.
_MOST_EXTRAPOLATION = 10.0
# Three Newton steps are enough as a rule.
_PROJECTIONS = 16


class State(NamedTuple):
    """An image on its way, with all that the next step needs.

    Args:
      image: y, of the reference's shape.
      step_length: the root mean square of the next step, as a part of the range's width.
      level: the value at which the held metric is held.
      held: the held metric's value at the image, within 1e-4 of the level.
      moved: the moved metric's value at the image.
      held_gradient: of the held metric at the image.
      moved_gradient: of the moved metric at the image.
      velocity: the direction of the last step, 0 after a refused one.
    """

    image: jax.Array
    step_length: jax.Array
    level: jax.Array
    held: jax.Array
    moved: jax.Array
    held_gradient: jax.Array
    moved_gradient: jax.Array
    velocity: jax.Array


class Trajectory(NamedTuple):
    """Where a metric came to, and the values on the way.

    Args:
      image: the last image.
      held: (num_steps + 1,), the held metric at the start and after every step.
      moved: (num_steps + 1,), the moved metric, monotone.
    """

    image: jax.Array
    held: jax.Array
    moved: jax.Array


class Competition(NamedTuple):
    """The four extremes of two metrics, named by the one that moved.

    Args:
      first_least: the least value of the first metric, the second held.
      first_greatest: its greatest value, the second held.
      second_least: the least value of the second metric, the first held.
      second_greatest: its greatest value, the first held.
    """

    first_least: Trajectory
    first_greatest: Trajectory
    second_least: Trajectory
    second_greatest: Trajectory


def _check_images(x: Any, y: Any, value_range: tuple[float, float]) -> tuple[jax.Array, jax.Array]:
    x, y = images.check_pair(x, y, value_range)
    _check_dtype("x", x)
    _check_dtype("y", y)
    # The check leaves room for rounding; every image on the way lies in the range itself.
    return x, jnp.clip(y, *value_range) + zero(x).astype(y.dtype)


def _reference(x: Any) -> jax.Array:
    x = images.as_array("x", x)
    _check_dtype("x", x)
    return jnp.asarray(x)


def _check_dtype(name: str, image: Any) -> None:
    if image.dtype not in (jnp.float32, jnp.float64):
        raise TypeError(f"{name} must be float32 or float64, got dtype {image.dtype}")


def _check_direction(direction: Any) -> float:
    if direction not in tuple(_SIGNS):  # unlike a dict, it lets a list be asked for
        raise ValueError(f"direction must be 'least' or 'greatest', got {direction!r}")
    return _SIGNS[direction]


def _check_num_steps(num_steps: Any) -> int:
    if isinstance(num_steps, bool) or not isinstance(num_steps, numbers.Integral):
        raise TypeError(f"num_steps must be an integer, got {num_steps!r}")
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    return int(num_steps)


def _check_start(state: State) -> None:
    if isinstance(state.level, Tracer):
        largest = float(jnp.finfo(state.level.dtype).max)
        rule = "y, the start, must differ from the reference x under the held metric"
        images.check_traced(rule, state.level, 0.0, largest, positive=True)
        for name in ("held", "moved", "held_gradient", "moved_gradient"):
            rule = f"{name.replace('_', ', its ')} must be finite at the start y"
            images.check_traced(rule, getattr(state, name), -largest, largest)
        return
    if not 0.0 < state.level < jnp.inf:  # also false for NaN
        raise ValueError(
            "y, the start, must differ from the reference x under the held metric, "
            f"by a finite distance, got {float(state.level):g}"
        )
    for name, value, gradient in (
        ("held", state.held, state.held_gradient),
        ("moved", state.moved, state.moved_gradient),
    ):
        if not (jnp.isfinite(value) and jnp.isfinite(gradient).all()):
            raise ValueError(
                f"{name} must be finite at the start y, as must its gradient, "
                f"got the value {float(value):g}"
            )


class _Named(NamedTuple):
    """A metric in y's precision, or one error that names it; equal, for `jit`, to its like."""

    name: str
    metric: Callable

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        value = self.metric(x, y)
        shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", type(value))
        if shape != () or not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"{self.name} must return a floating scalar, got {dtype} of shape {shape}"
            )
        return jnp.asarray(value, y.dtype)


def _named(name: str, metric: Any) -> _Named:
    if not callable(metric):
        raise TypeError(f"{name} must be a function (x, y) -> distance, got {metric!r}")
    # `jit` hashes what is static: a partial function by its identity, whatever it holds.
    return _Named(name, metric if isinstance(metric, Hashable) else functools.partial(metric))


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum(a * b)  # in full precision on every device, unlike a matrix product


def _unit(v: jax.Array) -> jax.Array:
    """The direction of v, of root mean square 1, or 0. Scaled first: no square overflows."""
    largest = jnp.max(jnp.abs(v))
    v = v / jnp.where(largest > 0.0, largest, 1.0)
    size = jnp.sqrt(jnp.mean(jnp.square(v)))
    return v / jnp.where(size > 0.0, size, 1.0)


def _project(
    v: jax.Array, normal: jax.Array, image: jax.Array, value_range: tuple[float, float]
) -> jax.Array:
    """The nearest direction to v that is orthogonal to `normal` and leads out of no bound.

    It is v - lambda normal, without elements that it would push out. The sum of
    its products with `normal` falls with lambda, piecewise linearly: Newton's
    steps find the zero, and halving where they would circle.
    """
    low, high = value_range

    def inside(multiplier):
        d = v - multiplier * normal
        pushed_out = ((image <= low) & (d < 0.0)) | ((image >= high) & (d > 0.0))
        return jnp.where(pushed_out, 0.0, d)

    def refine(_, search):
        multiplier, below, above = search
        d = inside(multiplier)
        excess, slope = _dot(d, normal), jnp.sum(jnp.where(d != 0.0, jnp.square(normal), 0.0))
        below = jnp.where(excess > 0.0, multiplier, below)
        above = jnp.where(excess < 0.0, multiplier, above)
        newton = multiplier + excess / jnp.where(slope > 0.0, slope, 1.0)
        circles = ((excess > 0.0) & (newton >= above)) | ((excess < 0.0) & (newton <= below))
        return jnp.where(circles, 0.5 * (below + above), newton), below, above

    # Of a normal whose mean square is 1, <v, n> / <n, n>: right where no bound is in the way.
    first = jnp.mean(v * normal) + zero(image)
    far = float(jnp.finfo(first.dtype).max) + zero(first)
    return inside(lax.fori_loop(0, _PROJECTIONS, refine, (first, -far, far))[0])


class _Search(NamedTuple):
    """A root search: the last point and its error, one before, the next point."""

    offset: jax.Array
    error: jax.Array
    earlier_offset: jax.Array
    earlier_error: jax.Array
    following: jax.Array
    evaluations: jax.Array


def _find_root(error_at: Callable, slope: jax.Array, accuracy: jax.Array) -> _Search:
    """The root of `error_at` next to 0: secants, regula falsi once it is bracketed.

    Each round evaluates once. `slope` is the derivative at about 0; with its
    sign the first secant goes through the point where the tangent is 0.
    """

    def refine(search):
        offset = search.following
        error = error_at(offset)
        # Illinois: the end of a bracket that is kept counts half, or it would be kept for ever.
        keep = (search.earlier_error * search.error < 0.0) & (error * search.error > 0.0)
        earlier = jnp.where(keep, search.earlier_offset, search.offset)
        earlier_error = jnp.where(keep, 0.5 * search.earlier_error, search.error)
        first = search.evaluations == 0
        earlier = jnp.where(first, -error / jnp.where(slope > 0.0, slope, 1.0), earlier)
        earlier_error = jnp.where(first, 0.0, earlier_error)
        rise, width = error - earlier_error, offset - earlier
        move = -error * width / jnp.where(rise == 0.0, 1.0, rise)
        most = _MOST_EXTRAPOLATION * jnp.abs(width)
        following = offset + jnp.clip(move, -most, most)
        evaluations = search.evaluations + 1
        return _Search(offset, error, earlier, earlier_error, following, evaluations)

    def unfinished(search):  # also false for NaN
        return (jnp.abs(search.error) > accuracy) & (search.evaluations < _MOST_EVALUATIONS)

    start = zero(slope, accuracy)
    far = start + jnp.inf
    search = _Search(start, far, start, start, start, start.astype(jnp.int32))
    return lax.while_loop(unfinished, refine, search)


def _evaluate(x: jax.Array, image: jax.Array, held: Metric, moved: Metric) -> dict[str, jax.Array]:
    """The fields of a `State` that an image decides."""
    held_value, held_gradient = jax.value_and_grad(held, argnums=1)(x, image)
    moved_value, moved_gradient = jax.value_and_grad(moved, argnums=1)(x, image)
    values = {"image": image, "held": held_value, "moved": moved_value}
    return values | {"held_gradient": held_gradient, "moved_gradient": moved_gradient}


def _direction(
    state: State, normal: jax.Array, sign: Any, value_range: tuple[float, float]
) -> jax.Array:
    """Along the level set, with momentum as long as that still leads the wanted way."""

    def along(v):
        return _project(v, normal, state.image, value_range)

    steepest = along(sign * _unit(state.moved_gradient))
    carried = along(_unit(steepest) + _MOMENTUM * state.velocity)
    return _unit(jnp.where(_dot(carried, steepest) > 0.0, carried, steepest))


@functools.partial(jax.jit, static_argnums=(2, 3, 5))
def _step(
    x: jax.Array,
    state: State,
    held: Metric,
    moved: Metric,
    sign: Any,
    value_range: tuple[float, float],
) -> State:
    low, high = value_range
    x = x + zero(state.image).astype(x.dtype)
    normal = _unit(state.held_gradient)
    direction = _direction(state, normal, sign, value_range)
    moved_off = jnp.clip(state.image + state.step_length * (high - low) * direction, low, high)

    def returned(offset):
        return jnp.clip(moved_off + offset * normal, low, high)

    def error_at(offset):
        return held(x, returned(offset)) - state.level

    digits = float(jnp.finfo(state.image.dtype).eps) ** _KEPT_DIGITS
    root = _find_root(error_at, _dot(state.held_gradient, normal), digits * state.level)
    reached = state._replace(
        step_length=jnp.minimum(_GROWTH * state.step_length, 1.0), velocity=direction
    )
    # `cond`, not `where`: the gradients of both metrics only where the level was reached.
    reached = lax.cond(
        jnp.abs(root.error) <= _TOLERANCE * state.level,
        lambda: reached._replace(**_evaluate(x, returned(root.offset), held, moved)),
        lambda: state,
    )
    gradients = reached.held_gradient, reached.moved_gradient
    finite = jnp.isfinite(gradients[0]).all() & jnp.isfinite(gradients[1]).all()
    better = (sign * reached.moved > sign * state.moved) & finite
    stayed = state._replace(
        step_length=0.5 * state.step_length, velocity=jnp.zeros_like(state.velocity)
    )
    return jax.tree.map(lambda new, old: jnp.where(better, new, old), reached, stayed)


@functools.partial(jax.jit, static_argnums=(2, 3, 5, 6))
def _run(
    x: jax.Array,
    start: State,
    held: Metric,
    moved: Metric,
    sign: Any,
    num_steps: int,
    value_range: tuple[float, float],
) -> Trajectory:
    def advance(state, _):
        state = _step(x, state, held, moved, sign, value_range)
        return state, (state.held, state.moved)

    last, values = lax.scan(advance, start, None, length=num_steps)
    held_values, moved_values = (
        jnp.concatenate([first[None], later])
        for first, later in zip((start.held, start.moved), values, strict=True)
    )
    return Trajectory(last.image, held_values, moved_values)


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _run_both(
    x: jax.Array,
    start: State,
    held: Metric,
    moved: Metric,
    num_steps: int,
    value_range: tuple[float, float],
) -> Trajectory:
    """To the least and to the greatest, in one loop: a metric is compiled once per role."""
    signs = jnp.asarray([*_SIGNS.values()], start.level.dtype)
    return lax.map(lambda sign: _run(x, start, held, moved, sign, num_steps, value_range), signs)


def begin(
    x: ArrayLike,
    y: ArrayLike,
    *,
    held: Metric,
    moved: Metric,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> State:
    """The state before the first step: both metrics and their gradients at the start.

    Args:
      x: the reference, an image (H W or H W C, channels last, for the metrics of this
        package), float32 or float64. Under `jit` its values are not checked.
      y: the start, float32 or float64, of the same shape; for example x with noise.
      held: the metric that keeps its value, a function (x, y) -> distance.
      moved: the metric that will be made least or greatest.
      value_range: the least and the greatest value of every image on the way.

    Returns:
      A `State` whose level is held(x, y).

    Raises:
      TypeError: dtypes other than these, or a metric that is no function or
        returns no floating scalar.
      ValueError: shapes that differ, an empty axis, or concrete values outside
        the range or NaN; a start at no finite positive distance under the held
        metric, or where a metric or its gradient is not finite.

    Source: Wang and Simoncelli, Journal of Vision 8(12), 2008; see `step`.

    Example:
      >>> import jax.numpy as jnp
      >>> squares = lambda x, y: jnp.mean(jnp.square(x - y))
      >>> most = lambda x, y: jnp.max(jnp.abs(x - y))
      >>> x = jnp.full((4, 4), 0.5)
      >>> float(begin(x, x + 0.25, held=squares, moved=most).level)
      0.0625
    """
    value_range = images.check_value_range(value_range)
    x, y = _check_images(x, y, value_range)
    fields = _evaluate(x, y, _named("held", held), _named("moved", moved))
    nothing = zero(*fields.values())  # what one field varies over, a step lets all vary over
    fields = {name: value + nothing for name, value in fields.items()}
    length, velocity = _FIRST_LENGTH + nothing, jnp.full(y.shape, nothing)
    state = State(step_length=length, level=fields["held"], velocity=velocity, **fields)
    _check_start(state)
    return state


def step(
    x: ArrayLike,
    state: State,
    *,
    held: Metric,
    moved: Metric,
    direction: str,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> State:
    """One step along the level set of the held metric; see the head of this module.

    Args:
      x: the reference, float32 or float64.
      state: from `begin` or from another step.
      held: the metric that keeps its value.
      moved: the metric that is made least or greatest.
      direction: "least" or "greatest".
      value_range: as in `begin`.

    Returns:
      The next `State`: closer to the extreme, or the same image with half the
      step length. Nothing in it is NaN if nothing in `state` is.

    Raises:
      TypeError: another dtype of x, or a metric that is no function or returns no
        floating scalar.
      ValueError: another direction, a range out of order, or an x of another
        shape than the image.

    Source: Wang and Simoncelli, Journal of Vision 8(12), 2008, appendix. Here
    momentum, the projection on the bounds, and the rule that takes a step or
    halves it are added, and no metric has a return of its own.

    Example:
      >>> import jax.numpy as jnp
      >>> squares = lambda x, y: jnp.mean(jnp.square(x - y))
      >>> first = lambda x, y: jnp.square(x - y)[0, 0]
      >>> x = jnp.full((4, 4), 0.5)
      >>> state = begin(x, x + 0.1, held=squares, moved=first)
      >>> after = step(x, state, held=squares, moved=first, direction="greatest")
      >>> bool(after.moved > state.moved), bool(abs(after.held / state.level - 1) < 1e-4)
      (True, True)
    """
    sign, value_range = _check_direction(direction), images.check_value_range(value_range)
    x = _reference(x)
    if x.shape != state.image.shape:
        raise ValueError(f"x must have the image's shape {state.image.shape}, got {x.shape}")
    return _step(x, state, _named("held", held), _named("moved", moved), sign, value_range)


def differentiate(
    x: ArrayLike,
    y: ArrayLike,
    *,
    held: Metric,
    moved: Metric,
    direction: str,
    num_steps: int,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> Trajectory:
    """The extreme of one metric on the level set of another, from a start y.

    Args:
      x: the reference, as in `begin`.
      y: the start, as in `begin`.
      held: the metric that keeps its value.
      moved: the metric that is made least or greatest.
      direction: "least" or "greatest".
      num_steps: how many steps, taken or refused; 50 to 200 are plenty as a rule.
      value_range: as in `begin`.

    Returns:
      A `Trajectory`. `held` stays within 1e-4 of its first value, and `moved`
      never goes back.

    Raises:
      As `begin` and `step`; TypeError or ValueError where num_steps is no integer of at least 1.

    Source: Wang and Simoncelli, Journal of Vision 8(12), 2008; see `step`.

    Example:
      >>> import jax.numpy as jnp
      >>> squares = lambda x, y: jnp.mean(jnp.square(x - y))
      >>> first = lambda x, y: jnp.square(x - y)[0, 0]
      >>> x = jnp.full((4, 4), 0.5)
      >>> options = {"direction": "least", "num_steps": 20}
      >>> trajectory = differentiate(x, x + 0.1, held=squares, moved=first, **options)
      >>> trajectory.moved.shape, bool(trajectory.moved[-1] < 1e-4)
      ((21,), True)
    """
    sign, num_steps = _check_direction(direction), _check_num_steps(num_steps)
    start = begin(x, y, held=held, moved=moved, value_range=value_range)
    held, moved = _named("held", held), _named("moved", moved)
    value_range = images.check_value_range(value_range)
    return _run(_reference(x), start, held, moved, sign, num_steps, value_range)


def compete(
    x: ArrayLike,
    y: ArrayLike,
    *,
    first: Metric,
    second: Metric,
    num_steps: int,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> Competition:
    """The four extremes of two metrics: each at its least and greatest, the other held.

    Args:
      x: the reference, as in `begin`.
      y: the start of all four, as in `begin`.
      first: a metric, a function (x, y) -> distance.
      second: another.
      num_steps: as in `differentiate`, to each of the four.
      value_range: as in `begin`.

    Returns:
      A `Competition` of four `Trajectory`s.

    Raises:
      As `differentiate`; the messages call the metrics held and moved.

    Source: Wang and Simoncelli, Journal of Vision 8(12), 2008; see `step`.

    Example:
      >>> import jax.numpy as jnp
      >>> squares = lambda x, y: jnp.mean(jnp.square(x - y))
      >>> fourth = lambda x, y: jnp.mean(jnp.square(jnp.square(x - y)))
      >>> x, start = jnp.full((4, 4), 0.5), jnp.linspace(0.3, 0.7, 16).reshape(4, 4)
      >>> result = compete(x, start, first=squares, second=fourth, num_steps=20)
      >>> bool(result.second_least.moved[-1] < result.second_greatest.moved[-1])
      True
    """
    num_steps, value_range = _check_num_steps(num_steps), images.check_value_range(value_range)
    reference = _reference(x)

    def extremes(held, moved):
        start = begin(x, y, held=held, moved=moved, value_range=value_range)
        held, moved = _named("held", held), _named("moved", moved)
        both = _run_both(reference, start, held, moved, num_steps, value_range)
        return (Trajectory(*leaves) for leaves in zip(*both, strict=True))

    return Competition(*extremes(second, first), *extremes(first, second))
