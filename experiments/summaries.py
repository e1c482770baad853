"""From one value a seed, or a test item, to a mean with its interval; and tables of them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats

from probemb import calibration


def over_seeds(values: list[float]) -> dict[str, Any]:
    """The mean over seeds with its 95 % t interval; without an interval for a single one."""
    mean = float(np.mean(values))
    half = 0.0
    if len(values) > 1:
        error = np.std(values, ddof=1) / np.sqrt(len(values))
        half = float(scipy.stats.t.ppf(0.975, len(values) - 1) * error)
    several = len(values) > 1
    return {
        "mean": mean,
        "low": mean - half if several else None,
        "high": mean + half if several else None,
        "seeds": [float(value) for value in values],
    }


@functools.partial(jax.jit, static_argnums=(1, 3))
def _bootstrap(key, statistic, items, num_resamples):
    def mean_over_seeds(*items: jax.Array, weights: jax.Array) -> jax.Array:
        of_seed = functools.partial(statistic, weights=weights)
        return jnp.mean(jax.vmap(of_seed, in_axes=1)(*items))

    mean = mean_over_seeds(*items, weights=jnp.ones(len(items[0]), items[0].dtype))
    ends = calibration.bootstrap_interval(key, mean_over_seeds, *items, num_resamples=num_resamples)
    return mean, *ends


def over_items(
    key: jax.Array, statistic: Callable, *items: np.ndarray, num_resamples: int
) -> dict[str, float]:
    """The mean over seeds of a statistic, with its bootstrap interval over test items.

    Args:
      key: a random key.
      statistic: of the values (item) of one seed and their weights, such as `calibration.aurc`.
      items: values (item, seed).
      num_resamples: of the items.
    """
    values = _bootstrap(key, statistic, items, num_resamples)
    return dict(zip(("mean", "low", "high"), map(float, values), strict=True))


def kept_by_rejection(
    uncertainties: list[np.ndarray], errors: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The share of items rejected, the least certain first, and how right the rest is.

    A mean over seeds; where a handful of items is left, which tells nothing, the curve ends.

    Args:
      uncertainties: (item) of each seed.
      errors: (item) of each seed, from 0 to 1.
    """
    curves = []
    for uncertainty, error in zip(uncertainties, errors, strict=True):
        uncertainty = uncertainty.astype(np.float32)
        risk = np.asarray(calibration.selective_risk(uncertainty, error))
        curves.append(1.0 - risk[np.argsort(uncertainty, kind="stable")])
    kept = np.arange(1, len(curves[0]) + 1) / len(curves[0])
    shown = kept > 0.02
    return 1.0 - kept[shown], np.mean(curves, 0)[shown]


def number(value: dict[str, Any] | None, digits: int = 3) -> str:
    """A mean with its interval."""
    if value is None:
        return "undefined"
    text = f"{value['mean']:.{digits}f}"
    if value["low"] is not None:
        text += f" [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
    return text


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def find(rows: list[dict], **what: str) -> dict | None:
    """The first row with these values."""
    return next((row for row in rows if all(row[k] == v for k, v in what.items())), None)
