"""Can the uncertainty be trusted: does it predict errors, and are probabilities frequencies?

`uncertainty` ranks items: the greater, the less certain. Only its order counts, so
eta, a total variance and minus a similarity are judged alike. A threshold accepts or
rejects all items of one uncertainty together.
"""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from probemb.judging.ranks import (
    check_varied,
    correlation,
    item_values,
    item_weights,
    kendall_tau,
    spearman,
    sum_up_to,
)
from probemb.numerics import arguments

__all__ = [
    "Reliability",
    "aurc",
    "bin_correlation",
    "bootstrap_interval",
    "coverage",
    "coverage_error",
    "equal_bins",
    "expected_calibration_error",
    "kendall_tau",
    "level_score",
    "r_auroc",
    "reliability",
    "selective_risk",
    "spearman",
]

# By `vmap`, under which they share one sort of the items; more at once only take memory.
_RESAMPLES_AT_ONCE = 50
# Means of bins that differ by this many units of rounding are equal.
_ROUNDING = 16.0


class Reliability(NamedTuple):
    """Bins of equal width in probability, as `reliability` fills them.

    Attributes:
      predicted: the mean probability (bin); 0 where a bin is empty.
      observed: the share of matches (bin); 0 where a bin is empty.
      weight: the share of items (bin), which sums to 1.
    """

    predicted: jax.Array
    observed: jax.Array
    weight: jax.Array


def r_auroc(
    uncertainty: ArrayLike, correct: ArrayLike, *, weights: ArrayLike | None = None
) -> jax.Array:
    """The probability that an error is more uncertain than a success: R-AUROC.

    P(u_wrong > u_right) + P(u_wrong = u_right) / 2: 1 is ideal, 1/2 is chance.

    Args:
      uncertainty: (item).
      correct: (item), 1 where the item was right (such as recall at 1) and 0 where not.
      weights: (item), how often an item counts; by default once.

    Returns:
      A scalar from 0 to 1; under `jit` or `vmap`, NaN where all are right or all wrong, or where
      an uncertainty is NaN.

    Raises:
      TypeError, ValueError: other shapes, NaN, or no error or no success among the items.

    Source: the area under the ROC curve as a rank sum (Mann and Whitney, 1947); as R-AUROC of
    embeddings in the URL benchmark (Kirchhof et al., NeurIPS 2023).

    Example:
      >>> import jax.numpy as jnp
      >>> float(r_auroc(jnp.array([0.1, 0.4, 0.3, 0.9]), jnp.array([1, 1, 0, 0])))
      0.75
    """
    uncertainty = arguments.ordered("uncertainty", uncertainty, "item")
    given, correct = correct, item_values("correct", correct, uncertainty)
    if arguments.concrete(given):
        seen = np.unique(np.asarray(given, np.float64))
        if seen.tolist() != [0.0, 1.0]:
            raise ValueError(f"correct must be 0 or 1 and hold both, got {seen[:5].tolist()}")
    weights = item_weights(weights, uncertainty)
    right, wrong = weights * correct, weights * (1.0 - correct)
    if arguments.concrete(right) and not (right.any() and wrong.any()):
        raise ValueError("weights must leave both an error and a success")
    below, up_to = (sum_up_to(uncertainty, right, side) for side in ("left", "right"))
    return jnp.sum(wrong * 0.5 * (below + up_to)) / (jnp.sum(right) * jnp.sum(wrong))


def selective_risk(
    uncertainty: ArrayLike, error: ArrayLike, *, weights: ArrayLike | None = None
) -> jax.Array:
    """For every item, the mean error of all that are as certain or more: error against rejection.

    Sorted by `uncertainty`, this is the risk-coverage curve: where all items differ, entry k - 1
    is the risk of the k most certain.

    Args:
      uncertainty: (item).
      error: (item), from 0 to 1, such as 1 - recall at 1.
      weights: (item), how often an item counts; by default once.

    Returns:
      (item), in the order of the items.

    Raises:
      TypeError, ValueError: other shapes, NaN, or errors beyond 0 to 1.

    Source: Geifman and El-Yaniv (NeurIPS 2017).

    Example:
      >>> import jax.numpy as jnp
      >>> selective_risk(jnp.array([0.1, 0.3, 0.4]), jnp.array([0, 1, 0])).round(2).tolist()[:2]
      [0.0, 0.5]
    """
    uncertainty = arguments.ordered("uncertainty", uncertainty, "item")
    error = item_values("error", error, uncertainty)
    weights = item_weights(weights, uncertainty)
    wrong, accepted = (
        sum_up_to(uncertainty, values, "right") for values in (weights * error, weights)
    )
    return wrong / jnp.where(accepted > 0.0, accepted, 1.0)  # 0 where nothing counts


def aurc(
    uncertainty: ArrayLike, error: ArrayLike, *, weights: ArrayLike | None = None
) -> jax.Array:
    """The area under the risk-coverage curve: the mean of `selective_risk`, 0 is ideal.

    Args:
      uncertainty: (item).
      error: (item), from 0 to 1.
      weights: (item), how often an item counts; by default once.

    Returns:
      A scalar from 0 to 1. It depends on how many errors there are, and on their order.

    Raises:
      TypeError, ValueError: as `selective_risk`.

    Source: Geifman, Uziel and El-Yaniv (ICLR 2019).

    Example:
      >>> import jax.numpy as jnp
      >>> float(aurc(jnp.array([0.1, 0.4]), jnp.array([0, 1])))
      0.25
    """
    risk = selective_risk(uncertainty, error, weights=weights)
    weights = item_weights(weights, risk)
    return jnp.sum(weights * risk) / jnp.sum(weights)


def equal_bins(uncertainty: ArrayLike, *, num_bins: int) -> jax.Array:
    """Bins of equally many items, from the most certain to the least.

    Args:
      uncertainty: (item).
      num_bins: at most the number of items; sizes differ by at most one.

    Returns:
      The bin of every item, integers (item) from 0 to num_bins - 1. Ties go in the order of the
      items: shuffle them where that order means something.

    Raises:
      TypeError, ValueError: other shapes, NaN, or fewer items than bins.

    Source: the binned scores of HIB, ProbVLM, PCME++ and ProLIP. Where the number of items is
    no multiple of the number of bins, none is dropped.

    Example:
      >>> import jax.numpy as jnp
      >>> equal_bins(jnp.array([0.5, 0.1, 0.9, 0.2, 0.3]), num_bins=2).tolist()
      [1, 0, 1, 0, 0]
    """
    uncertainty = arguments.ordered("uncertainty", uncertainty, "item")
    num_bins, items = arguments.count("num_bins", num_bins), len(uncertainty)
    if items < num_bins:
        raise ValueError(f"num_bins must be at most the {items} items, got {num_bins}")
    bins = jnp.asarray(np.arange(items) * num_bins // items, jnp.int32)
    return jnp.zeros(items, jnp.int32).at[jnp.argsort(uncertainty)].set(bins)


def _levels(uncertainty: Any, correct: Any, num_bins: Any, weights: Any):
    """The bins' places and the mean of what is correct in them, both centred, and its order.

    An item of a tie counts in every bin that the tie spans, by the bin's share of the tie.
    """
    order = arguments.ordered("uncertainty", uncertainty, "item")
    correct = item_values("correct", correct, order)
    counts = item_weights(weights, order)
    num_bins = arguments.count("num_bins", num_bins, least=2)
    check_varied("uncertainty", uncertainty, order, counts)
    check_varied("correct", correct, correct, counts)
    return _of_bins(num_bins, order, correct, _whole_numbers(weights, order, num_bins))


@functools.partial(jax.jit, static_argnums=0)
def _of_bins(num_bins: int, uncertainty: jax.Array, correct: jax.Array, weights: jax.Array):
    """`_levels`, once all is checked."""
    order = jnp.argsort(uncertainty)

    def up_to(values: jax.Array) -> jax.Array:
        sums = sum_up_to(uncertainty, values, "right")[order]
        return jnp.concatenate([jnp.zeros(1, values.dtype), sums])

    accepted, right = up_to(weights), up_to(weights * correct)
    # As in `equal_bins`, ceil(bin items / bins); the half keeps rounding from adding an item.
    bins = jnp.arange(num_bins + 1, dtype=accepted.dtype)
    edges = jnp.ceil((bins * accepted[-1] - 0.5) / num_bins)
    mean = jnp.diff(jnp.interp(edges, accepted, right)) / jnp.diff(edges)
    slack = _ROUNDING * num_bins * jnp.finfo(mean.dtype).eps
    apart = mean[:, None] - mean[None]
    apart = jnp.where(jnp.abs(apart) <= slack, 0.0, apart)
    level = bins[:-1] - 0.5 * (num_bins - 1)
    # The signs add up to twice the mid-rank from the middle, which a correlation cannot tell apart.
    return level, jnp.mean(apart, axis=1), jnp.sum(jnp.sign(apart), axis=1)


def _whole_numbers(weights: Any, like: jax.Array, num_bins: int) -> jax.Array:
    """Weights in whole numbers, at least one for each bin where they can be looked at."""
    if weights is None:
        weights = np.ones(like.shape)
    weights = arguments.array("weights", weights)
    if arguments.concrete(weights):
        seen = np.asarray(weights).astype(np.float64)
        if (seen != np.round(seen)).any():
            bad = seen[seen != np.round(seen)][0]
            raise ValueError(
                f"weights must be whole numbers, got {arguments.shown(bad, np.round(bad))}"
            )
        number = seen.sum()
        if number < num_bins:
            raise ValueError(f"num_bins must be at most the {number:g} items, got {num_bins}")
        if number > 1.0 / jnp.finfo(like.dtype).eps:
            raise ValueError(f"weights must have a sum that {like.dtype} counts to, got {number:g}")
        weights = seen
    return jnp.asarray(weights).astype(like.dtype)


def level_score(
    uncertainty: ArrayLike,
    correct: ArrayLike,
    *,
    num_bins: int = 5,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """-S R^2 over bins of equally many items: does each bin do worse than the one before?

    S is Spearman's correlation of the bins' places and their means of `correct`, and R^2 that of
    the straight line through these means. It is here to stand beside published numbers; `r_auroc`,
    `aurc` and `kendall_tau` say more. With 5 bins and no tie S moves in steps of 0.1, and of
    uncertainties that tell nothing 4 % have S <= -0.9. R^2 does not see how far the line falls:
    from 0.51 to 0.49 is as good as from 1 to 0.

    Args:
      uncertainty: (item).
      correct: (item), from 0 to 1, such as recall at 1.
      num_bins: from 2 on, at most the number of items.
      weights: (item), how often an item counts, in whole numbers; by default once.

    Returns:
      A scalar from -1 to 1, 1 is ideal; NaN where all bins are equally right, and, under `jit`
      or `vmap`, where an uncertainty is NaN. Bins are those of `equal_bins`, but that the order
      of the items does not count: what ties is spread evenly over the bins that it spans.

    Raises:
      TypeError, ValueError: other shapes, NaN, fewer items than bins, weights that are no whole
        numbers, or the same uncertainty or correctness throughout.

    Source: ProbVLM (Upadhyay et al., ICCV 2023). Its release lets an item drop out at the borders
    of bins; here none does.

    Example:
      >>> import jax.numpy as jnp
      >>> correct = jnp.array([1, 1, 1, 0, 1, 0, 0, 0])
      >>> round(float(level_score(jnp.arange(8.0), correct, num_bins=4)), 4)
      0.8538
    """
    level, mean, order = _levels(uncertainty, correct, num_bins, weights)
    each = jnp.ones_like(level)
    return -correlation(level, order, each) * jnp.square(correlation(level, mean, each))


def bin_correlation(
    uncertainty: ArrayLike,
    correct: ArrayLike,
    *,
    num_bins: int = 10,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """Pearson's correlation over bins of equally many items: their places and their means.

    Beside `level_score` in the papers, and with its faults: it does not see how far the means
    fall, and a few bins correlate by chance.

    Args:
      uncertainty: (item).
      correct: (item), from 0 to 1, such as recall at 1.
      num_bins: from 2 on, at most the number of items.
      weights: (item), how often an item counts, in whole numbers; by default once.

    Returns:
      A scalar from -1 to 1. -1 is ideal: the more uncertain, the less often right. NaN and ties
      as in `level_score`.

    Raises:
      TypeError, ValueError: as `level_score`.

    Source: the binned recall of PCME++ (Chun, ICLR 2024) and ProLIP (Chun et al., ICLR 2025).

    Example:
      >>> import jax.numpy as jnp
      >>> correct = jnp.array([1, 1, 1, 0, 1, 0, 0, 0])
      >>> round(float(bin_correlation(jnp.arange(8.0), correct, num_bins=4)), 4)
      -0.9487
    """
    level, mean, _ = _levels(uncertainty, correct, num_bins, weights)
    return correlation(level, mean, jnp.ones_like(level))


def reliability(
    probability: ArrayLike,
    match: ArrayLike,
    *,
    num_bins: int = 15,
    weights: ArrayLike | None = None,
) -> Reliability:
    """Predicted probabilities beside observed frequencies, in bins of equal width.

    A bin (low, high] holds its upper edge and not its lower one; the first also holds 0. Edges are
    those of `numpy.linspace(0, 1, num_bins + 1)`, in the precision of the probabilities.

    Args:
      probability: (item), from 0 to 1.
      match: (item), 1 where it came true and 0 where not.
      num_bins: the number of bins.
      weights: (item), how often an item counts; by default once.

    Returns:
      A `Reliability`. An ideal one has `observed` equal to `predicted`.

    Raises:
      TypeError, ValueError: other shapes, or values beyond 0 to 1.

    Source: Guo et al. (ICML 2017), for the probability of a match. Their code leaves out a
    probability of 0.

    Example:
      >>> import jax.numpy as jnp
      >>> bins = reliability(jnp.array([0.1, 0.3, 0.8]), jnp.array([0, 1, 1]), num_bins=2)
      >>> bins.observed.tolist()
      [0.5, 1.0]
    """
    given = arguments.array("probability", probability)
    probability = arguments.batch("probability", given, "item")
    arguments.probabilities("probability", given, probability)
    match = item_values("match", match, probability)
    num_bins = arguments.count("num_bins", num_bins)
    # NumPy keeps the precision that is given.
    xp, exact = (np, np.asarray(given)) if arguments.concrete(given) else (jnp, probability)
    exact = exact.astype(np.result_type(exact, np.float32))
    edges = np.linspace(0.0, 1.0, num_bins + 1).astype(exact.dtype)
    # The number of inner edges below: what lies on an edge stays in the lower bin.
    place = xp.sum(exact[:, None] > xp.asarray(edges[1:-1])[None], axis=1)
    weights = item_weights(weights, probability)
    return _filled(num_bins, xp.asarray(place, np.int32), probability, match, weights)


@functools.partial(jax.jit, static_argnums=0)
def _filled(
    num_bins: int, place: Any, probability: jax.Array, match: jax.Array, weights: jax.Array
) -> Reliability:
    """The bins, given each item's."""

    def sums(values: jax.Array) -> jax.Array:
        return jnp.zeros(num_bins, values.dtype).at[place].add(values)

    count = sums(weights)
    filled = jnp.where(count > 0.0, count, 1.0)
    predicted, observed = sums(weights * probability) / filled, sums(weights * match) / filled
    return Reliability(predicted, observed, count / jnp.sum(weights))


def expected_calibration_error(
    probability: ArrayLike,
    match: ArrayLike,
    *,
    num_bins: int = 15,
    weights: ArrayLike | None = None,
) -> jax.Array:
    """The mean distance of predicted probabilities from observed frequencies: ECE.

    sum_b weight_b |observed_b - predicted_b| over the bins of `reliability`.

    Args:
      probability: (item), from 0 to 1.
      match: (item), 1 where it came true and 0 where not.
      num_bins: the number of bins of equal width.
      weights: (item), how often an item counts; by default once.

    Returns:
      A scalar from 0 to 1, 0 is ideal. Sampling alone makes it positive.

    Raises:
      TypeError, ValueError: as `reliability`.

    Source: Guo et al. (ICML 2017).

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(expected_calibration_error(jnp.array([0.9, 0.9]), jnp.array([1, 1]))), 4)
      0.1
    """
    bins = reliability(probability, match, num_bins=num_bins, weights=weights)
    return jnp.sum(bins.weight * jnp.abs(bins.observed - bins.predicted))


def _level(level: Any) -> float:
    """A level between 0 and 1."""
    if isinstance(level, bool) or not isinstance(level, numbers.Real):
        raise TypeError(f"level must be a number, got {level!r}")
    if not 0.0 < float(level) < 1.0:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    return float(level)


def coverage(
    central_probability: ArrayLike, *, level: float, weights: ArrayLike | None = None
) -> jax.Array:
    """The share of coordinates that lie within their central interval of a level.

    Args:
      central_probability: (item, dimension), how much of each predicted distribution lies nearer
        to its mean than what was observed: `DiagonalGaussian.central_probability`.
      level: of the interval, between 0 and 1.
      weights: (item), how often an item counts; by default once.

    Returns:
      A scalar; `level` is ideal, less is overconfident.

    Raises:
      TypeError, ValueError: other shapes, NaN, values or a level beyond 0 to 1.

    Source: the coverage of prediction intervals; Kuleshov, Fenner and Ermon (ICML 2018).

    Example:
      >>> import jax.numpy as jnp
      >>> float(coverage(jnp.array([[0.2, 0.9], [0.4, 0.7]]), level=0.5))
      0.5
    """
    return _coverage(central_probability, np.array([_level(level)]), weights)[0]


def coverage_error(
    central_probability: ArrayLike, *, num_levels: int = 19, weights: ArrayLike | None = None
) -> jax.Array:
    """How far coverage is from its level, a mean over levels: 0 is ideal.

    The mean of |coverage(l) - l| over `num_levels` levels between 0 and 1.

    Args:
      central_probability: (item, dimension), as in `coverage`.
      num_levels: evenly spaced; 19 are 0.05, 0.1 to 0.95.
      weights: (item), how often an item counts; by default once.

    Returns:
      A scalar from 0 to about 1/2.

    Raises:
      TypeError, ValueError: as `coverage`.

    Source: Kuleshov, Fenner and Ermon (ICML 2018), with absolute instead of squared errors, and
    central intervals instead of quantiles.

    Example:
      >>> import jax.numpy as jnp
      >>> round(float(coverage_error(jnp.full((1, 1), 0.999))), 3)  # outside of every interval
      0.5
    """
    number = arguments.count("num_levels", num_levels)
    levels = np.arange(1, number + 1) / (number + 1)
    shares = _coverage(central_probability, levels, weights)
    return jnp.mean(jnp.abs(shares - jnp.asarray(levels, shares.dtype)))


def _coverage(central_probability: Any, levels: np.ndarray, weights: Any) -> jax.Array:
    """The share of coordinates (level) within the central interval of each level."""
    given = arguments.array("central_probability", central_probability)
    found = arguments.batch("central_probability", given, "item dimension")
    arguments.probabilities("central_probability", given, found)
    # NumPy keeps the precision that is given.
    xp, exact = (np, np.asarray(given)) if arguments.concrete(given) else (jnp, found)
    exact = exact.astype(np.result_type(exact, np.float32))
    # Level by level: all comparisons at once would take (level, item, dimension).
    within = [xp.mean(exact <= exact.dtype.type(level), axis=1) for level in levels]
    weights = item_weights(weights, found[:, 0])
    # Where values cannot be looked at, a NaN must not count as a miss.
    shares = jnp.asarray(xp.stack(within)).astype(found.dtype)
    shares = jnp.where(jnp.isnan(found).any(), jnp.nan, shares)
    return jnp.matmul(shares, weights, precision="highest") / jnp.sum(weights)


# How many of the first items a statistic of this module does no more with than order them.
_ORDERED = {
    r_auroc: 1,
    selective_risk: 1,
    aurc: 1,
    level_score: 1,
    bin_correlation: 1,
    kendall_tau: 2,
    spearman: 2,
}


def _ordered_items(statistic: Callable) -> int:
    """How many of the first items only order, as far as the statistic is known."""
    while isinstance(statistic, functools.partial) and not statistic.args:
        statistic = statistic.func
    return _ORDERED.get(inspect.unwrap(statistic), 0) if inspect.isroutine(statistic) else 0


def _loses(item: Any) -> bool:
    """Whether values (item) that differ are equal in JAX."""
    if isinstance(item, jax.Array) or item.ndim != 1 or item.dtype.kind != "f":
        return False
    with np.errstate(over="ignore"):  # refused elsewhere
        held = item.astype(jax.dtypes.canonicalize_dtype(item.dtype))
    tiny = (np.abs(held) < np.finfo(held.dtype).tiny) & (item != 0.0)
    return bool(tiny.any()) or len(np.unique(held)) < len(np.unique(item))


def _held(item: Any) -> jax.Array:
    """Items in JAX; floats are finite."""
    floating = jnp.issubdtype(item.dtype, jnp.floating)
    return arguments.floats("items", item) if floating else arguments.held("items", item)


def _group_places(groups: Any, number: int) -> np.ndarray:
    """The place (item) of each item's group among all groups."""
    if not arguments.concrete(groups):
        raise TypeError("groups must be known before tracing, got an argument of jit or vmap")
    if isinstance(groups, str) or not hasattr(groups, "__len__"):
        raise TypeError(f"groups must be one name for each item, got {groups!r}")
    names = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    if len(names) != number:
        raise ValueError(f"groups must be one name for each of {number} items, got {len(names)}")
    places = {}
    for name in names:
        if not isinstance(name, Hashable) or name != name:
            raise ValueError(f"groups must be names such as numbers or strings, got {name!r}")
        places.setdefault(name, len(places))
    if len(places) < 2:
        raise ValueError(f"groups must be two at least, got {len(places)}")
    return np.array([places[name] for name in names], np.int32)


@arguments.compiled
def _ends(functions: tuple, keys: jax.Array, tails: jax.Array, members: tuple, items: tuple):
    """The quantiles of the statistic of resamples."""
    (statistic,), (places, groups) = functions, members
    number, dtype = len(groups), jnp.result_type(float)

    def of_resample(key: jax.Array) -> jax.Array:
        drawn = jax.random.randint(key, (number,), 0, number)
        counts = jnp.zeros(number, dtype).at[drawn].add(1.0)
        return jnp.asarray(statistic(*items, weights=counts[places]))

    values = jax.lax.map(of_resample, keys, batch_size=_RESAMPLES_AT_ONCE)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        values = values.astype(dtype)
    return jnp.nanquantile(values, tails.astype(values.dtype), axis=0)


def _of_weights(statistic: Callable, items: list, *, weights: jax.Array) -> jax.Array:
    return statistic(*items, weights=weights)


def bootstrap_interval(
    key: jax.Array,
    statistic: Callable[..., jax.Array],
    *items: Any,
    num_resamples: int = 1000,
    level: float = 0.95,
    groups: ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """The percentile interval of a statistic over items that are drawn again with replacement.

    A resample is a weight for each item, how often it was drawn, so that what does not depend
    on the weights (such as the order of the items) is computed once for many resamples.

    Items that belong together, such as five captions of an image, are no independent evidence:
    name their `groups`, and whole groups are drawn.

    Args:
      key: a random key.
      statistic: of `items` and a keyword `weights` (item), to an array (...), such as `aurc`.
        It is traced, and compiled once for a function: define it once, as a function or as a
        `functools.partial` of one, for a `lambda` written in the call is compiled at each.
      items: arrays (item, ...), which are resampled together.
      num_resamples: how many times.
      level: of confidence, between 0 and 1.
      groups: (item), the name of each item's group, numbers or strings; two groups at least. By
        default each item is one of its own.

    Returns:
      The lower and the upper end (...). Resamples where the statistic is NaN (such as
      `r_auroc` of successes only) are left out; where all are, the ends are NaN.

    Raises:
      TypeError, ValueError: no key, no items, items of different number, NaN among them, or
        groups that do not fit; and what the statistic raises for these items. Where x64 is off,
        items that float32 cannot hold; those that it cannot tell apart stay as they are, and are
        compiled at each call, but for the statistics of this module.

    Source: Efron (1979), the percentile method; of groups, the cluster bootstrap (Davison and
    Hinkley, 1997).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> low, high = bootstrap_interval(jax.random.key(0), jnp.average, jnp.arange(100.0))
      >>> bool(low < 49.5 < high)
      True
    """
    keys = jax.random.split(arguments.key(key), arguments.count("num_resamples", num_resamples))
    given = [arguments.array("items", array) for array in items]
    lengths = {array.shape[:1] for array in given}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise ValueError(
            "items must be arrays (item, ...) of one positive length, "
            f"got the shapes {[array.shape for array in given]}"
        )
    tail = 0.5 - 0.5 * _level(level)
    # An array, so that another level is the same program.
    tails = jnp.asarray(np.array([tail, 1.0 - tail]))
    number = len(given[0])
    ordered = _ordered_items(statistic)
    exact = [
        array if array.ndim == 1 and (place < ordered or _loses(array)) else _held(array)
        for place, array in enumerate(given)
    ]
    arrays = tuple(
        arguments.ordered("items", array, "item") if place < ordered else _held(array)
        for place, array in enumerate(exact)
    )
    function = statistic
    if arguments.concrete(*given):  # what it raises, it raises here
        weights = jax.ShapeDtypeStruct((number,), jnp.result_type(float))
        jax.eval_shape(lambda weights: statistic(*exact, weights=weights), weights)
        if any(map(_loses, exact[ordered:])):
            arrays, function = (), functools.partial(_of_weights, statistic, exact)

    places = np.arange(number, dtype=np.int32) if groups is None else _group_places(groups, number)
    # The second has the number of groups for its length, which a program knows while it is traced.
    members = jnp.asarray(places), jnp.zeros(int(places.max()) + 1, bool)
    low, high = _ends((function,), keys, tails, members, arrays)
    return low, high
