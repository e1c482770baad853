"""What is to be had of uncertainty without a distribution: every baseline, and one table of them.

    evidence = Evidence(scores=scores)         # (query, item)
    measured(evidence)["entropy over items"]   # (query), the greater the less certain

A family of experiments says what it has of its queries, and gets every baseline that is to be had
of it. A new baseline is a function and a row of `BASELINES`; where it needs what no other one does,
a field of `Evidence` too.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Evidence(NamedTuple):
    """What there is to know of queries; None is what a family does not have.

    Attributes:
      scores: (query, item), the logits of a trained model, in units of its own.
      cosines: (query, item).
      logits: (query, item), cosines times the scale at which their softmax is likeliest.
      match: (query, item), probabilities of a match.
      points: (query, dimension), embeddings before they became unit vectors.
      changed: (query, change, dimension), embeddings of the query when it is a little changed.
      texts: (query), as they read.
      votes: (query, voter), what each of the nearest items says that the query is.
    """

    scores: Any = None
    cosines: Any = None
    logits: Any = None
    match: Any = None
    points: Any = None
    changed: Any = None
    texts: tuple[str, ...] | None = None
    votes: Any = None


class Baseline(NamedTuple):
    """A measure of uncertainty.

    Attributes:
      of: evidence of one kind -> (query), the greater the less certain.
      takes: fields of `Evidence`; of those the first that is there.
    """

    of: Callable[[Any], Any]
    takes: tuple[str, ...]


def minus_best(scores: Any) -> Any:
    """Minus the greatest score (query, item) of a query."""
    return -scores.max(1)


@jax.jit
def minus_margin(scores: jax.Array) -> jax.Array:
    """Minus how far the best item (query, item) is ahead of the second."""
    best = jax.lax.top_k(scores, 2)[0]
    return best[:, 1] - best[:, 0]


@jax.jit
def entropy_over_items(logits: jax.Array) -> jax.Array:
    """The entropy in nats of a softmax over the items (query, item)."""
    share = jax.nn.log_softmax(logits, axis=1)
    return -jnp.sum(jnp.exp(share) * share, axis=1)


def distance_to_nearest(match: Any) -> Any:
    """How improbable a match (query, item) with the nearest item is."""
    return 1.0 - match.max(1)


def minus_norm(points: Any) -> Any:
    """Minus the length (query, dimension): what networks are unsure of lies near 0."""
    return -((points * points).sum(-1) ** 0.5)


def spread_of_changes(changed: Any) -> Any:
    """The total variance of embeddings (query, change, dimension) of a changed query.

    Source: Ayhan and Berens, "Test-time Data Augmentation for Estimation of Heteroscedastic
    Aleatoric Uncertainty in Deep Neural Networks" (MIDL 2018), with ProbVLM's total variance.
    """
    return changed.var(axis=1).sum(axis=1)


def minus_words(texts: tuple[str, ...]) -> np.ndarray:
    """Minus the number of words: what is said in few words may be vague."""
    return -np.array([len(text.split()) for text in texts], np.float32)


def entropy_of_votes(votes: Any) -> Any:
    """The entropy in nats of what the voters (query, voter) say."""
    share = (votes[:, :, None] == votes[:, None, :]).mean(2)
    return -np.log(share).mean(1)  # the mean over voters is the sum over what they say


BASELINES: dict[str, Baseline] = {
    "minus best score": Baseline(minus_best, ("scores",)),
    "minus best cosine": Baseline(minus_best, ("cosines",)),
    "distance to nearest": Baseline(distance_to_nearest, ("match",)),
    "minus margin": Baseline(minus_margin, ("scores", "cosines")),
    "entropy over items": Baseline(entropy_over_items, ("scores", "logits")),
    "TTDA": Baseline(spread_of_changes, ("changed",)),
    "minus norm": Baseline(minus_norm, ("points",)),
    "minus words": Baseline(minus_words, ("texts",)),
    "entropy of votes": Baseline(entropy_of_votes, ("votes",)),
}
"""Every baseline by its name, in the order of reports."""


def named(*kinds: str) -> tuple[str, ...]:
    """The baselines of some kinds of evidence, fields of `Evidence`, in the table's order."""
    unknown = set(kinds) - set(Evidence._fields)
    if unknown:
        raise ValueError(f"kinds must be among {', '.join(Evidence._fields)}, got {min(unknown)!r}")
    return tuple(name for name, row in BASELINES.items() if set(row.takes) & set(kinds))


_AXES = {
    **dict.fromkeys(("scores", "cosines", "logits", "match"), "(query, item)"),
    "points": "(query, dimension)",
    "changed": "(query, change, dimension)",
    "texts": "(query)",
    "votes": "(query, voter)",
}


def _check(name: str, value: Any) -> None:
    """Refuse evidence of another shape, of no query, with NaN, or without a second item."""
    shape, axes = np.shape(value), _AXES[name]
    if len(shape) != axes.count(",") + 1 or 0 in shape:
        raise ValueError(f"{name} must have shape {axes}, none of them 0, got {shape}")
    if name in ("scores", "cosines") and shape[1] < 2:
        raise ValueError(f"{name} must be of two items at least, got {shape}")
    if name != "texts" and np.isnan(value).any():
        raise ValueError(f"{name} must have no NaN, got {int(np.isnan(value).sum())} of them")


def measured(evidence: Evidence) -> dict[str, np.ndarray]:
    """Every baseline (query) that there is evidence for, in the table's order.

    Raises:
      ValueError: evidence of another shape, of no query, or with NaN; scores of one item alone.
    """
    there = {name: value for name, value in evidence._asdict().items() if value is not None}
    for name, value in there.items():
        _check(name, value)
    rows = {name: BASELINES[name] for name in named(*there)}
    return {
        name: np.asarray(row.of(there[next(kind for kind in row.takes if kind in there)]))
        for name, row in rows.items()
    }
