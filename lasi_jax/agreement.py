"""Agreement with people: how well a metric's numbers follow what people said of the same images.

Statistics over items, computed once on the host: everything here is NumPy in float64, takes
arrays (item,) of any kind (JAX's included), and returns Python floats. Nothing is differentiable.
"""

import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# SciPy comes with jax; it is imported where it is used, so that `import lasi_jax` stays light.

_PARAMETERS = {"logistic4": 4, "logistic5": 5}
# A search for a fit starts from the best of a grid over the means of this many bins of scores.
_BINS = 100
_CENTERS = 25
# Of a logistic, in standard deviations of the score: from all but a step to all but a line.
_SCALES = np.geomspace(1e-3, 10.0, 17)
# How far the center of a logistic may lie outside the scores, in standard deviations.
_BEYOND = 3.0
# The least mean square of a sigmoid less its linear part that is no rounding.
_ROUNDING = 1e-24


class UndefinedError(ValueError):
    """These items do not define the statistic, as constant scores do not define a correlation."""


def _item(name: str, values: Any) -> np.ndarray:
    """Finite float64 values (item,)."""
    values = np.asarray(values)
    if not np.can_cast(values.dtype, np.float64, "same_kind"):
        raise TypeError(f"{name} must hold real numbers, got dtype {values.dtype}")
    if values.ndim != 1 or not values.size:
        raise ValueError(
            f"{name} must have shape (item,) and at least one item, got shape {values.shape}"
        )
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        item = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"{name} must be finite, got {values[item]} at item {item}")
    return values


def _items(**arrays: Any) -> list[np.ndarray]:
    """Finite float64 values (item,) of the same items."""
    checked = [_item(name, values) for name, values in arrays.items()]
    for name, values in zip(arrays, checked, strict=True):
        if values.shape != checked[0].shape:
            raise ValueError(
                f"{name} must have one value per item as {next(iter(arrays))} has, "
                f"{checked[0].size}, got {values.size}"
            )
    return checked


def _check_share(name: str, values: np.ndarray) -> None:
    if values.min() < 0.0 or values.max() > 1.0:
        raise ValueError(
            f"{name} must lie in 0..1, got values from {values.min():g} to {values.max():g}"
        )


def _varied_items(**arrays: Any) -> list[np.ndarray]:
    """Values of the same items, none of them constant."""
    checked = _items(**arrays)
    for name, values in zip(arrays, checked, strict=True):
        if values.min() == values.max():
            raise UndefinedError(
                f"{name} must not be the same for all items, got {values[0]:g} throughout"
            )
    return checked


def _standardize(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Values of mean 0 and mean square 1, and the mean and the deviation that they had."""
    mean, extent = values.mean(), np.ptp(values)  # the square of tiny values may not exist
    deviation = extent * np.std((values - mean) / extent)
    return (values - mean) / deviation, float(mean), float(deviation)


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.clip(np.mean(_standardize(x)[0] * _standardize(y)[0]), -1.0, 1.0))


def two_afc(distance_0: Any, distance_1: Any, preference: Any) -> float:
    """How often judges agree with a metric on which of two images is closer to a third.

    mean[(d0 < d1) (1 - p) + (d1 < d0) p + (d0 = d1) / 2]: 1/2 is chance, `human_ceiling` a judge's
    own score. It is a distance's; of a similarity, pass the negative.

    Args:
      distance_0: (item,), of the first image from the reference.
      distance_1: (item,), of the second image from the reference.
      preference: (item,), p, the share of the judges to whom the second image is closer.

    Returns:
      A score from 0 to 1.

    Raises:
      TypeError: no real numbers.
      ValueError: no items, lengths that differ, NaN, infinity, or preferences beyond 0..1.

    Source: Zhang et al., CVPR 2018 (LPIPS), 2AFC of BAPPS; "all" of its tables is the mean of
    the scores of the subsets.

    Example:
      >>> two_afc([0.1, 0.4, 0.2], [0.3, 0.3, 0.2], [0.25, 1.0, 0.75])
      0.75
    """
    distance_0, distance_1, preference = _items(
        distance_0=distance_0, distance_1=distance_1, preference=preference
    )
    _check_share("preference", preference)
    share = np.where(distance_0 < distance_1, 1.0 - preference, preference)
    return float(np.mean(np.where(distance_0 == distance_1, 0.5, share)))


def human_ceiling(preference: Any) -> float:
    """How often one judge agrees with another: the 2AFC score of people.

    mean[p^2 + (1 - p)^2]. A metric that always sides with the majority scores higher still,
    mean[max(p, 1 - p)].

    Args:
      preference: (item,), as in `two_afc`.

    Returns:
      A score from 1/2 to 1.

    Raises:
      TypeError: no real numbers.
      ValueError: no items, NaN, infinity, or preferences beyond 0..1.

    Source: Zhang et al., CVPR 2018 (LPIPS), "Human" of table 5.

    Example:
      >>> human_ceiling([0.0, 0.5])
      0.75
    """
    preference = _item("preference", preference)
    _check_share("preference", preference)
    return float(np.mean(np.square(preference) + np.square(1.0 - preference)))


def jnd_average_precision(distance: Any, same: Any) -> float:
    """How well small distances single out the pairs of images that people could not tell apart.

    Over thresholds t on the distance, TP = sum of same and FP = sum of 1 - same where
    distance <= t; AP = sum over t of (recall(t) - recall(t-)) max_{u >= t} precision(u).

    Args:
      distance: (item,), between the two images of a pair.
      same: (item,), the share of the judges who took the two for the same image.

    Returns:
      An average precision from 0 to 1; mean(same) is what a constant distance scores.

    Raises:
      TypeError: no real numbers.
      ValueError: no items, lengths that differ, NaN, infinity, or shares beyond 0..1.
      UndefinedError: nobody took any pair for the same image.

    Source: Zhang et al., CVPR 2018 (LPIPS), JND of BAPPS, with the average precision of PASCAL
    VOC. Pairs of equal distance enter together, so that the order of the items cannot matter;
    the released code takes them one by one.

    Example:
      >>> jnd_average_precision([0.1, 0.2, 0.3], [1, 0, 1]).__round__(4)
      0.8333
    """
    distance, same = _items(distance=distance, same=same)
    _check_share("same", same)
    if not same.any():
        raise UndefinedError("same must be positive for some item, got 0 throughout")
    order = np.argsort(distance)
    last = np.append(np.diff(distance[order]) > 0.0, True)  # of the items of one distance
    true_positives = np.cumsum(same[order])[last]
    precision = true_positives / (np.flatnonzero(last) + 1.0)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    recall_gained = np.diff(true_positives, prepend=0.0) / true_positives[-1]
    return float(min(np.sum(recall_gained * envelope), 1.0))


def srcc(score: Any, opinion: Any) -> float:
    """Spearman's rank correlation: do a metric and people put images into the same order?

    Pearson's correlation of the ranks, where equal values share their mean rank.

    Args:
      score: (item,), a metric's, distance or similarity.
      opinion: (item,), such as mean opinion scores.

    Returns:
      A correlation from -1 to 1, with its sign: a good distance has a negative one with opinions
      of quality.

    Raises:
      TypeError: no real numbers.
      ValueError: no items, lengths that differ, NaN or infinity.
      UndefinedError: a constant score or opinion.

    Source: Spearman (1904).

    Example:
      >>> srcc([1.0, 2.0, 4.0, 3.0], [10.0, 20.0, 30.0, 40.0]).__round__(6)
      0.8
    """
    from scipy import stats

    score, opinion = _varied_items(score=score, opinion=opinion)
    return _pearson(stats.rankdata(score), stats.rankdata(opinion))


def krcc(score: Any, opinion: Any) -> float:
    """Kendall's rank correlation: do a metric and people put pairs of images into one order?

    tau-b = (concordant - discordant) / sqrt(pairs untied in score * pairs untied in opinion).

    Args:
      score: (item,), as in `srcc`.
      opinion: (item,), as in `srcc`.

    Returns:
      A correlation from -1 to 1, with its sign as in `srcc`.

    Raises:
      As `srcc`.

    Source: Kendall (1945).

    Example:
      >>> krcc([1.0, 2.0, 4.0, 3.0], [10.0, 20.0, 30.0, 40.0]).__round__(6)
      0.666667
    """
    from scipy import stats

    score, opinion = _varied_items(score=score, opinion=opinion)
    tau: Any = stats.kendalltau(score, opinion)  # SciPy annotates no result
    return float(tau.statistic)


class LogisticFit(NamedTuple):
    """A curve from score to opinion, as `fit_logistic` finds it; calling it evaluates it.

    Attributes:
      curve: "logistic4" or "logistic5".
      parameters: (4,) or (5,), b1, b2, ... of that curve, for the score as it is.
    """

    curve: str
    parameters: np.ndarray

    def __call__(self, score: Any) -> np.ndarray:
        """The curve's opinion of each score, of any shape."""
        from scipy.special import expit

        score, b = np.asarray(score, np.float64), self.parameters
        if self.curve == "logistic4":
            return (b[0] - b[1]) * expit((score - b[2]) / b[3]) + b[1]
        return b[0] * (expit(b[1] * (score - b[2])) - 0.5) + b[3] * score + b[4]


class _Reduced(NamedTuple):
    """A fit less its linear part: all that is left to search for is where a sigmoid lies.

    Given center and scale, both curves are linear in the other parameters, whose least squares
    is solved exactly (variable projection). Every row is scaled by the root of its weight.
    """

    score: np.ndarray
    opinion: np.ndarray  # less its linear part
    basis: np.ndarray  # of the linear part, orthonormal
    root: np.ndarray

    def sigmoid(self, center: Any, scale: Any) -> np.ndarray:
        """What no linear part explains of expit((score - center) / scale), (..., row)."""
        from scipy.special import expit

        rows = self.root * expit((self.score - center) / scale)
        return rows - (rows @ self.basis) @ self.basis.T

    def amplitude(self, sigmoid: np.ndarray) -> np.ndarray:
        """The least-squares factor of a sigmoid; 0 where it is as good as linear."""
        square = np.sum(np.square(sigmoid), -1)
        seen = square > _ROUNDING
        return np.where(seen, sigmoid @ self.opinion / np.where(seen, square, 1.0), 0.0)

    def residual(self, place: np.ndarray) -> np.ndarray:
        """What the best curve at (center, log scale) leaves of the opinions."""
        sigmoid = self.sigmoid(place[0], np.exp(place[1]))
        return self.opinion - self.amplitude(sigmoid) * sigmoid


def _reduce(score: np.ndarray, opinion: np.ndarray, weight: np.ndarray, degree: int) -> _Reduced:
    root = np.sqrt(weight)
    basis = np.linalg.qr(root[:, None] * np.vander(score, degree + 1))[0]
    rows = root * opinion
    return _Reduced(score, rows - basis @ (basis.T @ rows), basis, root)


def _start(score: np.ndarray, opinion: np.ndarray, degree: int) -> tuple[float, float]:
    """The center and the log scale on a grid that are best for the means of bins."""
    bins = min(_BINS, len(score))
    edges = np.arange(bins) * len(score) // bins
    sizes = np.diff(edges, append=len(score))
    order = np.argsort(score)
    x, y = (np.add.reduceat(values[order], edges) / sizes for values in (score, opinion))
    binned = _reduce(x, y, sizes / len(score), degree)
    centers = x[:: max(1, bins // _CENTERS)]
    sigmoids = binned.sigmoid(centers[:, None, None], _SCALES[:, None])
    gains = np.square(binned.amplitude(sigmoids)) * np.sum(np.square(sigmoids), -1)
    center, scale = np.unravel_index(np.argmax(gains), gains.shape)
    return float(centers[center]), float(np.log(_SCALES[scale]))


def _search(x: np.ndarray, y: np.ndarray, *, degree: int) -> tuple[float, float, float, np.ndarray]:
    """The center, scale and factor of the sigmoid, and the polynomial that is added to it."""
    from scipy import optimize, special

    reduced = _reduce(x, y, np.full(len(x), 1.0 / len(x)), degree)
    ends = np.log(_SCALES[[0, -1]])
    bounds = ([x.min() - _BEYOND, ends[0]], [x.max() + _BEYOND, ends[1]])
    place = optimize.least_squares(reduced.residual, _start(x, y, degree), bounds=bounds).x
    center, scale = float(place[0]), float(np.exp(place[1]))
    factor = float(reduced.amplitude(reduced.sigmoid(center, scale)))
    rest = y - factor * special.expit((x - center) / scale)
    return center, scale, factor, np.polyfit(x, rest, degree)


def fit_logistic(score: Any, opinion: Any, *, curve: str) -> LogisticFit:
    """The logistic curve that leads from a metric's scores to opinions with least squared error.

    logistic4: (b1 - b2) / (1 + exp(-(x - b3) / b4)) + b2, with b4 > 0; it falls where b1 < b2.
    logistic5: b1 (1/2 - 1 / (1 + exp(b2 (x - b3)))) + b4 x + b5, with b2 > 0; it contains every
    straight line, and need not be monotone.

    The width of the sigmoid is sought from 1/1000 to 10 standard deviations of the score.

    Args:
      score: (item,), as in `srcc`.
      opinion: (item,), as in `srcc`.
      curve: "logistic4" or "logistic5".

    Returns:
      A `LogisticFit`; `fit(score)` evaluates it.

    Raises:
      TypeError: no real numbers.
      ValueError: no items, lengths that differ, NaN, infinity, or an unknown curve.
      UndefinedError: a constant score or opinion, or no more items than parameters.

    Source: four parameters, the Video Quality Experts Group's final report (2003); five, Sheikh,
    Sabir and Bovik (IEEE TIP 2006). The linear parameters are eliminated by variable projection,
    Golub and Pereyra (1973).

    Example:
      >>> score = np.linspace(-4.0, 4.0, 20)
      >>> fit = fit_logistic(score, 5.0 / (1.0 + np.exp(-2.0 * (score - 1.0))), curve="logistic4")
      >>> (fit.parameters.round(4) + 0.0).tolist()
      [5.0, 0.0, 1.0, 0.5]
      >>> fit(1.0).round(4).item()
      2.5
    """
    if curve not in tuple(_PARAMETERS):
        raise ValueError(f"curve must be one of {', '.join(_PARAMETERS)}, got {curve!r}")
    score, opinion = _varied_items(score=score, opinion=opinion)
    if len(score) <= _PARAMETERS[curve]:
        raise UndefinedError(
            f"score must have more than {_PARAMETERS[curve]} items for {curve}, got {len(score)}"
        )
    (x, mean, deviation), (y, mean_opinion, unit) = _standardize(score), _standardize(opinion)
    center, scale, factor, line = _search(x, y, degree=int(curve == "logistic5"))
    center, scale, factor = mean + deviation * center, deviation * scale, unit * factor
    offset = mean_opinion + unit * line[-1]
    if curve == "logistic4":
        return LogisticFit(curve, np.array([offset + factor, offset, center, scale]))
    slope = unit * line[0] / deviation
    offset += 0.5 * factor - slope * mean
    return LogisticFit(curve, np.array([factor, 1.0 / scale, center, slope, offset]))


def plcc(score: Any, opinion: Any, *, curve: str) -> float:
    """Pearson's correlation of a metric with opinions, if need be after a curve is fitted.

    With a curve it is the correlation of the fitted curve with the opinions. The fit has a free
    offset and factor, so that it equals sqrt(1 - residual / total sum of squares).

    Args:
      score: (item,), as in `srcc`.
      opinion: (item,), as in `srcc`.
      curve: "logistic4" or "logistic5", as in `fit_logistic`, or "none". Say which beside the
        number.

    Returns:
      After a fit a correlation from 0 to 1, whether the metric is a distance or a similarity;
      without one from -1 to 1, with its sign as in `srcc`.

    Raises:
      As `fit_logistic`.

    Source: as `fit_logistic`.

    Example:
      >>> plcc([1.0, 2.0, 3.0, 4.0], [40.0, 30.0, 20.0, 10.0], curve="none").__round__(6)
      -1.0
      >>> score = np.arange(8.0)
      >>> plcc(score, np.tanh(4.0 - score), curve="logistic4").__round__(6)
      1.0
    """
    if curve not in (*_PARAMETERS, "none"):
        raise ValueError(f"curve must be one of {', '.join(_PARAMETERS)}, none, got {curve!r}")
    score, opinion = _varied_items(score=score, opinion=opinion)
    if curve == "none":
        return _pearson(score, opinion)
    fitted = fit_logistic(score, opinion, curve=curve)(score)
    # not Pearson's formula: a fit that is all but constant would leave it nothing but rounding
    residual = np.var((opinion - fitted) / np.ptp(opinion))
    return float(np.sqrt(max(1.0 - residual / np.var(opinion / np.ptp(opinion)), 0.0)))


def _check_resampling(items: tuple, num_resamples: Any, level: Any, groups: Any) -> np.ndarray:
    """The group of every item, integers from 0."""
    counts = [len(values) if values.ndim else 0 for values in items]
    if not counts or min(counts) != max(counts) or not counts[0]:
        raise ValueError(f"items must be arrays of one length, at least one, got lengths {counts}")
    if isinstance(num_resamples, bool) or not isinstance(num_resamples, numbers.Integral):
        raise TypeError(f"num_resamples must be an integer, got {num_resamples!r}")
    if num_resamples < 1:
        raise ValueError(f"num_resamples must be at least 1, got {num_resamples}")
    if not isinstance(level, numbers.Real) or not 0.0 < float(level) < 1.0:
        raise ValueError(f"level must be a number with 0 < level < 1, got {level!r}")
    groups = np.arange(counts[0]) if groups is None else np.asarray(groups)
    if groups.shape != (counts[0],):
        raise ValueError(f"groups must have one value per item, ({counts[0]},), got {groups.shape}")
    names, groups = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"items must come in at least two groups (or be two), got {len(names)}")
    return groups


def bootstrap_interval(
    statistic: Callable[..., Any],
    *items: Any,
    seed: int = 0,
    num_resamples: int = 1000,
    level: float = 0.95,
    groups: Any = None,
) -> tuple[float, float]:
    """How far a statistic of these items would move with other items of their kind.

    The (1 - level) / 2 and (1 + level) / 2 quantiles of the statistic over resamples, each as
    many items, or groups of items, as there are, drawn with replacement. For the difference of
    two metrics, let the statistic take the scores of both.

    Args:
      statistic: function of the items' arrays to a number, such as `srcc`.
      *items: arrays (item, ...), which are resampled together.
      seed: of the resamples: equal seeds and groups draw the same ones for every statistic.
      num_resamples: how many.
      level: of the interval, between 0 and 1.
      groups: (item,), names of what belongs together and is drawn together, such as the
        reference that a distorted image was made from; by default every item is its own.

    Returns:
      The lower and the upper end. Resamples where the statistic is NaN, infinite or raises
      `UndefinedError` are left out.

    Raises:
      TypeError: num_resamples is no integer.
      ValueError: no items, lengths that differ, fewer than two groups, num_resamples below 1, a
        level beyond 0..1, and whatever the statistic raises for the items themselves.
      UndefinedError: the statistic is undefined for every resample.

    Source: percentile interval, Efron and Tibshirani (1993); of groups, the cluster bootstrap of
    Davison and Hinkley (1997), section 3.8.

    Example:
      >>> low, high = bootstrap_interval(np.mean, np.arange(100.0))
      >>> low < 49.5 < high
      True
    """
    items = tuple(np.asarray(values) for values in items)
    groups = _check_resampling(items, num_resamples, level, groups)
    statistic(*items)  # what is wrong with the items themselves is no matter of a resample
    generator, num_groups = np.random.default_rng(seed), int(groups.max()) + 1
    found = []
    for _ in range(num_resamples):
        drawn = generator.integers(num_groups, size=num_groups)
        times = np.bincount(drawn, minlength=num_groups)[groups]
        try:
            value = float(statistic(*(np.repeat(values, times, axis=0) for values in items)))
        except UndefinedError:
            continue
        found += [value] if np.isfinite(value) else []
    if not found:
        raise UndefinedError(f"statistic must be defined for some of {num_resamples} resamples")
    low, high = np.quantile(found, (0.5 - level / 2.0, 0.5 + level / 2.0))
    return float(low), float(high)
