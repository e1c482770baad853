"""Can the uncertainty be trusted: does it predict errors, and are probabilities frequencies?

`uncertainty` ranks items: the greater, the less certain. Only its order counts, so
eta, a total variance and minus a similarity are judged alike, and items of one
uncertainty count as if their order were random.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from probemb import arguments


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


def _items(name: str, values: Any, like: jax.Array) -> jax.Array:
    """Values from 0 to 1, one for each item."""
    values = arguments.probabilities(name, values, like)
    if values.shape != like.shape:
        raise ValueError(f"{name} must have one value per item, {like.shape}, got {values.shape}")
    return values


def _ranks(uncertainty: jax.Array) -> jax.Array:
    """Ranks from 1, the mean of the places of a tie (item)."""
    ordered = jnp.sort(uncertainty)
    first = jnp.searchsorted(ordered, uncertainty, side="left")
    last = jnp.searchsorted(ordered, uncertainty, side="right")
    return 0.5 * (first + last + 1).astype(uncertainty.dtype)


def r_auroc(uncertainty: Any, correct: Any) -> jax.Array:
    """The probability that an error is more uncertain than a success: R-AUROC.

    P(u_wrong > u_right) + P(u_wrong = u_right) / 2: 1 is ideal, 1/2 is chance.

    Args:
      uncertainty: (item).
      correct: (item), 1 where the item was right (such as recall at 1) and 0 where not.

    Returns:
      A scalar from 0 to 1; under `jit` or `vmap`, NaN where all are right or all wrong.

    Raises:
      TypeError, ValueError: other shapes, NaN, or no error or no success among the items.

    Source: the area under the ROC curve as a rank sum (Mann and Whitney, 1947); as R-AUROC of
    embeddings in the URL benchmark (Kirchhof et al., NeurIPS 2023).

    Example:
      >>> import jax.numpy as jnp
      >>> float(r_auroc(jnp.array([0.1, 0.4, 0.3, 0.9]), jnp.array([1, 1, 0, 0])))
      0.75
    """
    uncertainty = arguments.batch("uncertainty", uncertainty, "item")
    correct = _items("correct", correct, uncertainty)
    if arguments.concrete(correct):
        seen = np.asarray(correct)
        if not np.isin(seen, (0, 1)).all() or seen.min() == seen.max():
            raise ValueError(
                "correct must be 0 or 1 and hold both, "
                f"got the values {np.unique(seen)[:5].tolist()}"
            )
    wrong = 1.0 - correct
    mean_rank = jnp.sum(_ranks(uncertainty) * wrong) / jnp.sum(wrong)
    return (mean_rank - 0.5 * (jnp.sum(wrong) + 1.0)) / jnp.sum(correct)


def risk_coverage(uncertainty: Any, error: Any) -> jax.Array:
    """The mean error of the k most certain items, for every k: error against rejection.

    Args:
      uncertainty: (item).
      error: (item), from 0 to 1, such as 1 - recall at 1.

    Returns:
      (item): entry k - 1 is the risk at coverage k / n; the last is the mean of all.

    Raises:
      TypeError, ValueError: other shapes, NaN, or errors beyond 0 to 1.

    Source: Geifman and El-Yaniv (NeurIPS 2017). Ties count as if their order were random.

    Example:
      >>> import jax.numpy as jnp
      >>> risk_coverage(jnp.array([0.1, 0.4, 0.3, 0.9]), jnp.array([0, 1, 0, 1])).tolist()
      [0.0, 0.0, 0.3333333432674408, 0.5]
    """
    uncertainty = arguments.batch("uncertainty", uncertainty, "item")
    error = _items("error", error, uncertainty)
    order = jnp.argsort(uncertainty)
    ordered = uncertainty[order]
    first = jnp.searchsorted(ordered, ordered, side="left")
    last = jnp.searchsorted(ordered, ordered, side="right")
    total = jnp.concatenate([jnp.zeros(1, error.dtype), jnp.cumsum(error[order])])
    # Within a tie every place holds the mean error of the tie.
    place = jnp.arange(1, len(ordered) + 1)
    share = ((place - first) / (last - first)).astype(error.dtype)
    return (total[first] + share * (total[last] - total[first])) / place.astype(error.dtype)


def aurc(uncertainty: Any, error: Any) -> jax.Array:
    """The area under the risk-coverage curve: the mean of `risk_coverage`, 0 is ideal.

    Args:
      uncertainty: (item).
      error: (item), from 0 to 1.

    Returns:
      A scalar from 0 to 1. It depends on how many errors there are, and on their order.

    Raises:
      TypeError, ValueError: as `risk_coverage`.

    Source: Geifman, Uziel and El-Yaniv (ICLR 2019).

    Example:
      >>> import jax.numpy as jnp
      >>> float(aurc(jnp.array([0.1, 0.4]), jnp.array([0, 1])))
      0.25
    """
    return jnp.mean(risk_coverage(uncertainty, error))


def equal_bins(uncertainty: Any, *, num_bins: int) -> jax.Array:
    """Bins of equally many items, from the most certain to the least.

    Args:
      uncertainty: (item).
      num_bins: at most the number of items; sizes differ by at most one.

    Returns:
      The bin of every item, integers (item) from 0 to num_bins - 1.

    Raises:
      TypeError, ValueError: other shapes, NaN, or fewer items than bins.

    Source: the binned scores of HIB, ProbVLM, PCME++ and ProLIP. Where the number of items is
    no multiple of the number of bins, none is dropped.

    Example:
      >>> import jax.numpy as jnp
      >>> equal_bins(jnp.array([0.5, 0.1, 0.9, 0.2, 0.3]), num_bins=2).tolist()
      [1, 0, 1, 0, 0]
    """
    uncertainty = arguments.batch("uncertainty", uncertainty, "item")
    num_bins, items = arguments.count("num_bins", num_bins), len(uncertainty)
    if items < num_bins:
        raise ValueError(f"num_bins must be at most the {items} items, got {num_bins}")
    bins = jnp.asarray(np.arange(items) * num_bins // items, jnp.int32)
    return jnp.zeros(items, jnp.int32).at[jnp.argsort(uncertainty)].set(bins)


def reliability(probability: Any, match: Any, *, num_bins: int = 15) -> Reliability:
    """Predicted probabilities beside observed frequencies, in bins of equal width.

    Args:
      probability: (item), from 0 to 1.
      match: (item), 1 where it came true and 0 where not.
      num_bins: the number of bins.

    Returns:
      A `Reliability`. An ideal one has `observed` equal to `predicted`.

    Raises:
      TypeError, ValueError: other shapes, or values beyond 0 to 1.

    Source: Guo et al. (ICML 2017), for the probability of a match.

    Example:
      >>> import jax.numpy as jnp
      >>> bins = reliability(jnp.array([0.1, 0.3, 0.8]), jnp.array([0, 1, 1]), num_bins=2)
      >>> bins.observed.tolist()
      [0.5, 1.0]
    """
    probability = arguments.batch("probability", probability, "item")
    probability = arguments.probabilities("probability", probability, probability)
    match = _items("match", match, probability)
    num_bins = arguments.count("num_bins", num_bins)
    place = jnp.minimum((probability * num_bins).astype(jnp.int32), num_bins - 1)

    def sums(values: jax.Array) -> jax.Array:
        return jnp.zeros(num_bins, values.dtype).at[place].add(values)

    count = sums(jnp.ones_like(probability))
    filled = jnp.maximum(count, 1.0)
    return Reliability(sums(probability) / filled, sums(match) / filled, count / len(match))


def expected_calibration_error(probability: Any, match: Any, *, num_bins: int = 15) -> jax.Array:
    """The mean distance of predicted probabilities from observed frequencies: ECE.

    sum_b weight_b |observed_b - predicted_b| over the bins of `reliability`.

    Args:
      probability: (item), from 0 to 1.
      match: (item), 1 where it came true and 0 where not.
      num_bins: the number of bins of equal width.

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
    bins = reliability(probability, match, num_bins=num_bins)
    return jnp.sum(bins.weight * jnp.abs(bins.observed - bins.predicted))


def bootstrap_interval(
    key: jax.Array,
    statistic: Callable[..., jax.Array],
    *items: Any,
    num_resamples: int = 1000,
    level: float = 0.95,
) -> tuple[jax.Array, jax.Array]:
    """The percentile interval of a statistic over items that are drawn again with replacement.

    Args:
      key: a random key.
      statistic: of arrays like `items`, to an array (...); it is traced.
      items: arrays (item, ...), which are resampled together.
      num_resamples: how many times.
      level: of confidence, between 0 and 1.

    Returns:
      The lower and the upper end (...). Resamples where the statistic is NaN (such as
      `r_auroc` of successes only) are left out.

    Raises:
      TypeError, ValueError: no key, no items, or items of different number.

    Source: Efron (1979), the percentile method.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> low, high = bootstrap_interval(jax.random.key(0), jnp.mean, jnp.arange(100.0))
      >>> bool(low < 49.5 < high)
      True
    """
    keys = jax.random.split(arguments.key(key), arguments.count("num_resamples", num_resamples))
    arrays = [jnp.asarray(array) for array in items]
    lengths = {array.shape[:1] for array in arrays}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise ValueError(
            "items must be arrays (item, ...) of one positive length, "
            f"got the shapes {[array.shape for array in arrays]}"
        )
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, got {level}")
    number = len(arrays[0])

    def of_resample(key: jax.Array) -> jax.Array:
        chosen = jax.random.randint(key, (number,), 0, number)
        return statistic(*(array[chosen] for array in arrays))

    values = jax.lax.map(of_resample, keys)
    tail = 0.5 - 0.5 * level
    low, high = jnp.nanquantile(values, jnp.array([tail, 1.0 - tail], values.dtype), axis=0)
    return low, high
