"""From one value a seed, or a test item, to a mean with its interval."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from probemb import calibration

# Where a value can lie: a share, a difference of two, a correlation, what has a sign.
SHARE, DIFFERENCE, CORRELATION, POSITIVE = (0.0, 1.0), (-1.0, 1.0), (-1.0, 1.0), (0.0, math.inf)
# Fewer seeds do not tell how far seeds lie apart.
_FEWEST_SEEDS = 3
# A share in float32 may miss its bound by so much.
_ROUNDING = 1e-5


def over_seeds(
    values: list[float], *, bounds: tuple[float, float] = (-math.inf, math.inf)
) -> dict[str, Any]:
    """The mean over seeds with its 95 % t interval; without an interval below three of them.

    What of the interval lies beyond the possible values is cut off, which the mean of all seeds is
    in as often as in the whole. It is the interval of the mean itself, at the bounds too, which
    those of transformed values (logits, Fisher's z) are not.

    Args:
      values: one of each seed.
      bounds: the least and the greatest possible value, such as `SHARE`.
    """
    low, high = bounds
    if not all(low - _ROUNDING <= value <= high + _ROUNDING for value in values):
        raise ValueError(f"values must lie in {low:g}..{high:g}, got {values}")
    values = [float(value) for value in np.clip(values, low, high)]
    mean, ends = float(np.mean(values)), (None, None)
    if len(values) >= _FEWEST_SEEDS:
        error = np.std(values, ddof=1) / np.sqrt(len(values))
        half = float(scipy.stats.t.ppf(0.975, len(values) - 1) * error)
        ends = max(mean - half, low), min(mean + half, high)
    return {
        "mean": mean,
        "low": ends[0],
        "high": ends[1],
        "seeds": values,
    }


def _mean_over_seeds(statistic: Callable, *items: jax.Array, weights: jax.Array) -> jax.Array:
    of_seed = functools.partial(statistic, weights=weights)
    return jnp.mean(jax.vmap(of_seed, in_axes=1)(*items))


@functools.partial(jax.jit, static_argnums=0)
def _mean(statistic: Callable, items: tuple[jax.Array, ...]) -> jax.Array:
    weights = jnp.ones(len(items[0]), items[0].dtype)
    return _mean_over_seeds(statistic, *items, weights=weights)


def over_items(
    key: jax.Array,
    statistic: Callable,
    *items: np.ndarray,
    num_resamples: int,
    groups: Any = None,
) -> dict[str, float] | None:
    """The mean over seeds of a statistic, with its bootstrap interval over test items.

    None where all items are of one group, which leaves nothing to draw from.

    Args:
      key: a random key.
      statistic: of the values (item) of one seed and their weights, such as `calibration.aurc`.
      items: values (item, seed).
      num_resamples: of the items.
      groups: (item), the names of what is drawn together, such as the image of a caption.
    """
    if groups is not None and len(np.unique(groups)) < 2:
        return None
    ends = calibration.bootstrap_interval(
        key,
        functools.partial(_mean_over_seeds, statistic),
        *items,
        num_resamples=num_resamples,
        groups=groups,
    )
    values = _mean(statistic, items), *ends
    return dict(zip(("mean", "low", "high"), map(float, values), strict=True))


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks (item, seed) of values that only order: float32 would let some of them tie."""
    return scipy.stats.rankdata(values, axis=0).astype(np.float32)
