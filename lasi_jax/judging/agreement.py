"""Agreement with people: how well a metric's numbers follow what people said of the same images.

Statistics over items, computed once on the host: everything here is NumPy in float64, takes
arrays (item,) of any kind (JAX's included), and returns Python floats. What only orders compares
numbers as they are given, 64-bit integers and long doubles too. Nothing is differentiable.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from numpy.typing import ArrayLike

# SciPy comes with jax; it is imported where it is used, so that `import lasi_jax` stays light.

_PARAMETERS = {"logistic4": 4, "logistic5": 5}
_DEGREES = {"logistic4": 0, "logistic5": 1}  # of the polynomial beside the sigmoid
# Of a logistic, in standard deviations of the score: how narrow (also in interquartile ranges),
# how wide, and how far its center may lie outside the scores, there also in scales: still further
# out it is an exponential to rounding, whose parameters have no digits left.
_NARROWEST, _WIDEST, _BEYOND, _FAR = 1e-3, 10.0, 3.0, 15.0
# A search starts from a grid: so many bins of equal weight where scores are not few, and for scales
# from _NARROW so many centers. So many places climb among the bins, the best so many among all.
_FEW, _BINS, _NARROW, _CENTERS, _STARTS, _FINALISTS = 300, 96, 0.3, 65, 16, 3
# The least mean square of a sigmoid less its linear part that is no rounding.
_ROUNDING = 1e-24


class UndefinedError(ValueError):
    """These items do not define the statistic, as constant scores do not define a correlation."""


def _as_given(name: str, values: Any) -> np.ndarray:
    """Finite real numbers (item,), in their own precision."""
    values = np.asarray(values)
    if not np.can_cast(values.dtype, np.longdouble, "same_kind"):
        raise TypeError(f"{name} must hold real numbers, got dtype {values.dtype}")
    if values.ndim != 1 or not values.size:
        raise ValueError(
            f"{name} must have shape (item,) and at least one item, got shape {values.shape}"
        )
    known = values.dtype.kind in "biuf"  # bfloat16 is not
    values = values.astype(values.dtype.newbyteorder("=") if known else np.float64)
    if not np.isfinite(values).all():
        item = int(np.argmin(np.isfinite(values)))
        raise ValueError(f"{name} must be finite, got {values[item]} at item {item}")
    return values


def _of_same_items(**arrays: Any) -> list[np.ndarray]:
    """Finite real numbers (item,) of the same items, in their own precision."""
    checked = [_as_given(name, values) for name, values in arrays.items()]
    for name, values in zip(arrays, checked, strict=True):
        if values.shape != checked[0].shape:
            raise ValueError(
                f"{name} must have one value per item as {next(iter(arrays))} has, "
                f"{checked[0].size}, got {values.size}"
            )
    return checked


def _double(name: str, values: np.ndarray) -> np.ndarray:
    """Values in float64, if they are no larger than it holds."""
    with np.errstate(over="ignore"):
        double = values.astype(np.float64)
    if not np.isfinite(double).all():
        item = int(np.argmin(np.isfinite(double)))
        raise ValueError(f"{name} must be finite in float64, got {values[item]} at item {item}")
    return double


def _share(name: str, values: np.ndarray) -> np.ndarray:
    """Shares in float64."""
    if values.min() < 0 or values.max() > 1:
        raise ValueError(
            f"{name} must lie in 0..1, got values from {values.min()} to {values.max()}"
        )
    return values.astype(np.float64)


def _places(values: np.ndarray) -> np.ndarray:
    """Integers in the order of values, equal where these are."""
    return np.unique(values, return_inverse=True)[1]


def _comparable(*arrays: np.ndarray) -> list[np.ndarray]:
    """Arrays of which less and equal are exact: integers and floats are not compared in float64."""
    kinds = {values.dtype.kind for values in arrays}
    return [values.astype(np.longdouble) if "f" in kinds else values for values in arrays]


def _check_varied(**arrays: np.ndarray) -> None:
    for name, values in arrays.items():
        if values.min() == values.max():
            raise UndefinedError(
                f"{name} must not be the same for all items, got {values[0]:g} throughout"
            )


def _ranked_items(**arrays: Any) -> list[np.ndarray]:
    """The order of values of the same items, none of them constant."""
    checked = _of_same_items(**arrays)
    _check_varied(**dict(zip(arrays, checked, strict=True)))
    return [_places(values) for values in checked]


def _varied_items(**arrays: Any) -> list[np.ndarray]:
    """Float64 values of the same items, none of them constant."""
    given = zip(arrays, _of_same_items(**arrays), strict=True)
    checked = {name: _double(name, values) for name, values in given}
    _check_varied(**checked)
    return list(checked.values())


def _standardize(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Values of mean 0 and mean square 1, and the mean and the deviation that they had."""
    most = np.abs(values).max()  # sums and squares of huge or tiny values may not exist
    values = values / most
    mean, extent = values.mean(), np.ptp(values)
    values = (values - mean) / extent
    # Once more: the first mean was rounded on the scale of values, not of their differences.
    values = values - values.mean()
    deviation = np.std(values)
    return values / deviation, float(most * mean), float(most * (extent * deviation))


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.clip(np.mean(_standardize(x)[0] * _standardize(y)[0]), -1.0, 1.0))


def two_afc(distance_0: ArrayLike, distance_1: ArrayLike, preference: ArrayLike) -> float:
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
    distance_0, distance_1, preference = _of_same_items(
        distance_0=distance_0, distance_1=distance_1, preference=preference
    )
    preference = _share("preference", preference)
    distance_0, distance_1 = _comparable(distance_0, distance_1)
    share = np.where(distance_0 < distance_1, 1.0 - preference, preference)
    return float(np.mean(np.where(distance_0 == distance_1, 0.5, share)))


def human_ceiling(preference: ArrayLike) -> float:
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
    preference = _share("preference", _as_given("preference", preference))
    return float(np.mean(np.square(preference) + np.square(1.0 - preference)))


def jnd_average_precision(distance: ArrayLike, same: ArrayLike) -> float:
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
    distance, same = _of_same_items(distance=distance, same=same)
    distance, same = _places(distance), _share("same", same)
    if not same.any():
        raise UndefinedError("same must be positive for some item, got 0 throughout")
    order = np.argsort(distance)
    last = np.append(np.diff(distance[order]) > 0, True)  # of the items of one distance
    true_positives = np.cumsum(same[order])[last]
    precision = true_positives / (np.flatnonzero(last) + 1.0)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    recall_gained = np.diff(true_positives, prepend=0.0) / true_positives[-1]
    return float(min(np.sum(recall_gained * envelope), 1.0))


def srcc(score: ArrayLike, opinion: ArrayLike) -> float:
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

    score, opinion = _ranked_items(score=score, opinion=opinion)
    return _pearson(stats.rankdata(score), stats.rankdata(opinion))


def krcc(score: ArrayLike, opinion: ArrayLike) -> float:
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

    score, opinion = _ranked_items(score=score, opinion=opinion)
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

    def __call__(self, score: ArrayLike) -> np.ndarray:
        """The curve's opinion of each score, of any shape."""
        from scipy.special import expit

        score, b = np.asarray(score, np.float64), self.parameters
        if self.curve == "logistic4":
            return (b[0] - b[1]) * expit((score - b[2]) / b[3]) + b[1]
        return b[0] * (expit(b[1] * (score - b[2])) - 0.5) + b[3] * score + b[4]


class _Reduced(NamedTuple):
    """A fit less its linear part: all that is left to search for is where a sigmoid lies.

    Given center and scale, both curves are linear in the other parameters, whose least squares
    is solved exactly (variable projection). Every row is scaled by the root of its weight. With
    g the part of a sigmoid that no linear part explains, the best factor is a = g.y / g.g, and
    what the sigmoid gains, of the sum of squares, is (g.y)^2 / g.g.
    """

    score: np.ndarray  # ascending, all different
    opinion: np.ndarray  # less its linear part
    basis: np.ndarray  # of the linear part, orthonormal
    root: np.ndarray

    def unexplained(self, rows: np.ndarray) -> np.ndarray:
        """What no linear part explains of functions of the score, (..., row)."""
        rows = self.root * rows
        return rows - (rows @ self.basis) @ self.basis.T

    def sigmoid(self, center: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """What no linear part explains of expit((score - center) / scale), (start, row)."""
        from scipy.special import expit

        return self.unexplained(expit((self.score - center[:, None]) / scale[:, None]))

    def amplitude(self, sigmoid: np.ndarray) -> np.ndarray:
        """The least-squares factor of a sigmoid; 0 where it is as good as linear."""
        square = np.sum(np.square(sigmoid), -1)
        seen = square > _ROUNDING
        return np.where(seen, sigmoid @ self.opinion / np.where(seen, square, 1.0), 0.0)

    def gain(self, center: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """How much of the sum of squares the sigmoids (start) explain."""
        sigmoid = self.sigmoid(center, scale)
        return self.amplitude(sigmoid) * (sigmoid @ self.opinion)

    def expansion(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The gain at (start, 2) of center and log scale, its gradient and its Hessian.

        The center's derivatives are per scale.
        """
        from scipy.special import expit

        z = (self.score - places[:, :1]) / np.exp(places[:, 1:])
        value = expit(z)
        first = value * (1.0 - value)
        second = first * (1.0 - 2.0 * value)
        mixed = second * z + first
        # g, its derivatives by center and by log scale, then twice by them: (start, 6, row)
        g = self.unexplained(np.stack([value, -first, -first * z, second, mixed, mixed * z], 1))
        along = g @ self.opinion
        products = (g[:, :1] @ g.swapaxes(1, 2))[:, 0]
        factor = self.amplitude(g[:, 0])[:, None]
        square = np.maximum(products[:, :1], _ROUNDING)
        slopes, of_square = along[:, 1:3], 2.0 * products[:, 1:3]
        # The gain is a (g.y) with a = (g.y) / g.g; hence its derivative a (2 g'.y - a (g.g)').
        gradient = factor * (2.0 * slopes - factor * of_square)
        change = ((slopes - factor * of_square) / square)[:, :, None]  # of the factor
        twice = [3, 4, 4, 5]
        curvature = along[:, twice] - factor * products[:, twice]
        crossed = g[:, 1:3] @ g[:, 1:3].swapaxes(1, 2)
        factor = factor[:, :, None]
        hessian = 2.0 * (
            change * (slopes - factor[:, 0] * of_square)[:, None]
            + factor * (curvature.reshape(-1, 2, 2) - factor * crossed)
        )
        return factor[:, 0, 0] * along[:, 0], gradient, hessian


def _reduce(score: np.ndarray, opinion: np.ndarray, weight: np.ndarray, degree: int) -> _Reduced:
    root = np.sqrt(weight)
    basis = np.linalg.qr(root[:, None] * np.vander(score, degree + 1))[0]
    rows = root * opinion
    return _Reduced(score, rows - basis @ (basis.T @ rows), basis, root)


def _bins(reduced: _Reduced) -> np.ndarray:
    """The first row of each bin: of equal weight, and where a step or a gap is greatest.

    Few scores are not binned.
    """
    if len(reduced.score) <= _FEW:
        return np.arange(len(reduced.score))
    few = _BINS // 3
    weight = np.square(reduced.root)
    equal = np.searchsorted(np.cumsum(weight) - weight / 2.0, np.arange(_BINS) / _BINS)
    # a step after each row explains this much
    along = np.cumsum(reduced.root * reduced.opinion)[:-1]
    explained = np.cumsum(reduced.root[:, None] * reduced.basis, 0)[:-1]
    square = np.cumsum(weight)[:-1] - np.sum(np.square(explained), 1)
    gain = np.where(square > 1e-12, np.square(along) / np.maximum(square, 1e-12), 0.0)
    beside = np.pad(gain, 1, constant_values=-1.0)
    peaks = np.flatnonzero((gain >= beside[:-2]) & (gain >= beside[2:]))
    steps = peaks[np.argsort(-gain[peaks])[:few]]
    gaps = np.argsort(-np.diff(reduced.score))[:few]
    return np.unique(np.concatenate([[0], equal, steps + 1, gaps + 1]))


def _starts(binned: _Reduced, edges: np.ndarray, least: float) -> np.ndarray:
    """The best two places (start, 2) of each scale on a grid, center and log scale."""
    score = binned.score
    near = np.concatenate([score, edges])
    wide = np.linspace(score[0] - _BEYOND, score[-1] + _BEYOND, _CENTERS)
    found = []
    for scale in np.geomspace(least, _WIDEST, 1 + int(np.ceil(np.log2(_WIDEST / least)))):
        apart = np.unique(np.floor(near / scale), return_index=True)[1]
        centers = near[apart] if scale < _NARROW else wide
        gains = binned.gain(centers, np.full(len(centers), scale))
        for _ in range(2):
            best = np.argmax(gains)
            found.append((gains[best], centers[best], np.log(scale)))
            gains = np.where(np.abs(centers - centers[best]) > 2.0 * scale, gains, -1.0)
    return np.array(sorted(found, reverse=True)[:_STARTS])[:, 1:]


def _bounds(reduced: _Reduced, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest center at each place."""
    beyond = np.minimum(_BEYOND, _FAR * np.exp(places[:, 1]))
    return reduced.score[0] - beyond, reduced.score[-1] + beyond


def _inside(reduced: _Reduced, places: np.ndarray, least: float) -> np.ndarray:
    places = np.clip(places, [-np.inf, np.log(least)], [np.inf, np.log(_WIDEST)])
    places[:, 0] = np.clip(places[:, 0], *_bounds(reduced, places))
    return places


def _climb(
    reduced: _Reduced, places: np.ndarray, least: float, *, num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Newton steps from places (start, 2) to greater gains, all at once; best places first."""
    places = _inside(reduced, places, least)
    gain, gradient, hessian = reduced.expansion(places)
    radius = np.ones(len(places))  # of the next step, in scales and in log scales
    for _ in range(num_steps):
        low, high = (
            np.stack([center, np.full(len(places), np.log(scale))], 1)
            for center, scale in zip(_bounds(reduced, places), (least, _WIDEST), strict=True)
        )
        fixed = ((places <= low) & (gradient < 0.0)) | ((places >= high) & (gradient > 0.0))
        slope = np.where(fixed, 0.0, gradient)
        bend = np.where(fixed[:, :, None] | fixed[:, None], 0.0, -hessian)
        values, vectors = np.linalg.eigh(bend + fixed[:, :, None] * np.eye(2))
        # By |eigenvalues|, so that the step climbs from a saddle or a valley too.
        turned = np.einsum("kji,kj->ki", vectors, slope) / np.maximum(np.abs(values), 1e-9)
        step = np.einsum("kij,kj->ki", vectors, turned)
        length = np.maximum(np.linalg.norm(step, axis=1), 1e-30)
        step *= np.minimum(1.0, radius / length)[:, None]
        going = np.flatnonzero((np.sum(slope * step, 1) > 1e-12) & (radius > 1e-6))
        if not len(going):
            break
        per_scale = np.stack([np.exp(places[:, 1]), np.ones(len(places))], 1)
        tried = _inside(reduced, places[going] + (step * per_scale)[going], least)
        found = reduced.expansion(tried)
        better = found[0] >= gain[going]
        radius[going] *= np.where(better, 3.0, 0.25)
        kept = going[better]
        places[kept] = tried[better]
        gain[kept], gradient[kept], hessian[kept] = (values[better] for values in found)
    order = np.argsort(-gain)
    return places[order], gain[order]


def _best_place(
    x: np.ndarray, y: np.ndarray, degree: int, least: float, others: np.ndarray
) -> np.ndarray:
    """Center and log scale (1, 2) of the sigmoid that gains most; others are tried as well."""
    score, group, sizes = np.unique(x, return_inverse=True, return_counts=True)
    weight, opinion = sizes / len(x), np.bincount(group, y) / sizes
    reduced = _reduce(score, opinion, weight, degree)
    first = _bins(reduced)
    of_bins = np.add.reduceat(weight, first)
    x, y = (np.add.reduceat(weight * values, first) / of_bins for values in (score, opinion))
    binned = _reduce(x, y, of_bins, degree)
    edges = (score[first[1:]] + score[first[1:] - 1]) / 2.0
    places, _ = _climb(binned, _starts(binned, edges, least), least, num_steps=6)
    places = np.concatenate([places[:_FINALISTS], others])
    return _climb(reduced, places, least, num_steps=60)[0][:1]


def _least_scale(x: np.ndarray) -> float:
    low, high = np.quantile(x, (0.25, 0.75))
    return _NARROWEST * min(1.0, float(high - low) or 1.0)


class _Curve(NamedTuple):
    """A sigmoid and the polynomial that is added to it."""

    center: float
    scale: float
    factor: float
    line: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        from scipy.special import expit

        return self.factor * expit((x - self.center) / self.scale) + np.polyval(self.line, x)


def _search(x: np.ndarray, y: np.ndarray, *, degree: int) -> _Curve:
    """The curve of least squares through values that are standardized."""
    from scipy import special

    least, places = _least_scale(x), np.empty((0, 2))
    for tried in range(degree + 1):  # the line's best is no worse than the constant's
        places = _best_place(x, y, tried, least, places)
    center, scale = float(places[0, 0]), float(np.exp(places[0, 1]))
    sigmoid = special.expit((x - center) / scale)
    columns = np.column_stack([sigmoid, np.vander(x, degree + 1)])
    factor, *line = np.linalg.lstsq(columns, y, rcond=None)[0]
    return _Curve(center, scale, float(factor), np.array(line))


def _check_curve(curve: str, score: np.ndarray) -> None:
    if len(score) <= _PARAMETERS[curve]:
        raise UndefinedError(
            f"score must have more than {_PARAMETERS[curve]} items for {curve}, got {len(score)}"
        )


def fit_logistic(score: ArrayLike, opinion: ArrayLike, *, curve: str) -> LogisticFit:
    """The logistic curve that leads from a metric's scores to opinions with least squared error.

    logistic4: (b1 - b2) / (1 + exp(-(x - b3) / b4)) + b2, with b4 > 0; it falls where b1 < b2.
    logistic5: b1 (1/2 - 1 / (1 + exp(b2 (x - b3)))) + b4 x + b5, with b2 > 0; it contains every
    straight line, and need not be monotone.

    The width of the sigmoid (b4, or 1 / b2) is sought from 1/1000 of the standard deviation of the
    score, or of its interquartile range where that is less, to 10 standard deviations; its center
    b3 among the scores and beyond them by at most 3 standard deviations and 15 widths. Where the
    best curve is an exponential or a logarithm, it is the sigmoid at that bound.

    Sums of squares have many local minima, more so in noise: a grid of places, then Newton steps
    from its best. That of logistic5 starts from logistic4's result too, and is never worse.

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
    _check_curve(curve, score)
    (x, mean, deviation), (y, mean_opinion, unit) = _standardize(score), _standardize(opinion)
    center, scale, factor, line = _search(x, y, degree=_DEGREES[curve])
    center, scale, factor = mean + deviation * center, deviation * scale, unit * factor
    offset = mean_opinion + unit * line[-1]
    if curve == "logistic4":
        return LogisticFit(curve, np.array([offset + factor, offset, center, scale]))
    slope = unit * line[0] / deviation
    offset += 0.5 * factor - slope * mean
    return LogisticFit(curve, np.array([factor, 1.0 / scale, center, slope, offset]))


def plcc(score: ArrayLike, opinion: ArrayLike, *, curve: str) -> float:
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
    _check_curve(curve, score)
    x, y = _standardize(score)[0], _standardize(opinion)[0]
    # not Pearson's formula: a fit that is all but constant would leave it nothing but rounding
    residual = np.var(y - _search(x, y, degree=_DEGREES[curve])(x))
    return float(np.sqrt(max(1.0 - residual, 0.0)))


def _generator(key: Any) -> np.random.Generator:
    """NumPy's generator of a random key."""
    raw = getattr(key, "dtype", None) == np.uint32 and getattr(key, "shape", None) == (2,)
    typed = isinstance(key, jax.Array) and jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key)
    if isinstance(key, Tracer) or not (raw or (typed and key.shape == ())):
        raise TypeError(f"key must be one key of jax.random with a value, got {key!r}")
    return np.random.default_rng(np.ravel(jax.random.key_data(key)))


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
    key: jax.Array,
    statistic: Callable[..., Any],
    *items: Any,
    num_resamples: int = 1000,
    level: float = 0.95,
    groups: ArrayLike | None = None,
) -> tuple[float, float]:
    """How far a statistic of these items would move with other items of their kind.

    The (1 - level) / 2 and (1 + level) / 2 quantiles of the statistic over resamples, each as
    many items, or groups of items, as there are, drawn with replacement. For the difference of
    two metrics, let the statistic take the scores of both.

    Args:
      key: a random key; equal keys and groups draw the same resamples for every statistic.
      statistic: function of the items' arrays to a number, such as `srcc`.
      *items: arrays (item, ...), which are resampled together.
      num_resamples: how many.
      level: of the interval, between 0 and 1.
      groups: (item,), names of what belongs together and is drawn together, such as the
        reference that a distorted image was made from; by default every item is its own.

    Returns:
      The lower and the upper end. Resamples where the statistic is NaN, infinite or raises
      `UndefinedError` are left out.

    Raises:
      TypeError: key is no key of jax.random, or a traced one; num_resamples is no integer.
      ValueError: no items, lengths that differ, fewer than two groups, num_resamples below 1, a
        level beyond 0..1, and whatever the statistic raises for the items themselves.
      UndefinedError: the statistic is undefined for every resample.

    Source: percentile interval, Efron and Tibshirani (1993); of groups, the cluster bootstrap of
    Davison and Hinkley (1997), section 3.8.

    Example:
      >>> low, high = bootstrap_interval(jax.random.key(0), np.mean, np.arange(100.0))
      >>> low < 49.5 < high
      True
    """
    generator = _generator(key)
    items = tuple(np.asarray(values) for values in items)
    groups = _check_resampling(items, num_resamples, level, groups)
    statistic(*items)  # what is wrong with the items themselves is no matter of a resample
    num_groups = int(groups.max()) + 1
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
