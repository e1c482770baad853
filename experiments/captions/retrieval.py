"""What is asked of embeddings of images and captions: who is found, by whom, and what is true.

Every image queries all captions of its split, every caption all images. A trial says what
matches, and what an annotator wrote down of it; where numbers are drawn from a grammar, also
how ambiguous each image and caption is.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from probemb import retrieval

Side = Literal["image", "caption"]
"""What queries."""
SIDES: tuple[Side, ...] = ("image", "caption")
METRICS = ("R@1", "R@5", "R-Precision", "mAP@R", "annotated R@1")
_PAIRS = 4000


class Truth(NamedTuple):
    """What only a controlled benchmark knows.

    Attributes:
      ambiguity: side -> nats (image or caption).
      match_probability: how probably each caption holds of what each image shows (image, caption).
      narrow: captions (pair), each of which is said to imply the one in `wide`.
      wide: captions (pair).
      implied: whether it does (pair): half of the pairs are nested, half are not.
      of_one_length: whether a caption (caption) holds of numbers of one length alone.
    """

    ambiguity: dict[Side, np.ndarray]
    match_probability: np.ndarray
    narrow: np.ndarray
    wide: np.ndarray
    implied: np.ndarray
    of_one_length: np.ndarray


Known = Callable[[np.ndarray, tuple[str, ...]], tuple[np.ndarray, Truth]]
"""Of a controlled benchmark: image ids (image) and captions (caption) to all that matches (image,
caption) and what else is known."""


class Trial(NamedTuple):
    """One test split, the same for every model.

    Attributes:
      images: (image, ...), as the model takes them.
      captions: (caption) as they read.
      texts: the captions (caption, ...), as the model takes them.
      positives: what matches (image, caption), boolean.
      annotated: what was written of which image (image, caption), boolean.
      truth: where it is known.
    """

    images: np.ndarray
    captions: tuple[str, ...]
    texts: np.ndarray
    positives: np.ndarray
    annotated: np.ndarray
    truth: Truth | None

    def groups(self, side: Side) -> np.ndarray:
        """The image (query) that each query is, or was first written of: what is independent."""
        return np.arange(len(self.images)) if side == "image" else self.annotated.argmax(0)


class Outcome(NamedTuple):
    """What one model makes of a trial.

    Attributes:
      scores: logits (image, caption).
      metrics: side -> metric -> (query).
      uncertainty: side -> measure -> (query), the greater the less certain.
      implication: how much each pair of `Truth` looks like implication (pair), if that is known.
    """

    scores: np.ndarray
    metrics: dict[Side, dict[str, np.ndarray]]
    uncertainty: dict[Side, dict[str, np.ndarray]]
    implication: np.ndarray | None

    @property
    def probability(self) -> np.ndarray:
        """The match probability (image, caption), if the scores are its logits."""
        return np.asarray(jax.nn.sigmoid(self.scores))


def arrays_of(outcome: Outcome) -> dict[str, np.ndarray]:
    """The arrays of an outcome by names such as "metrics/image/R@1", in their order."""
    found = {"scores": outcome.scores}
    for group in ("metrics", "uncertainty"):
        for side, of_side in getattr(outcome, group).items():
            found |= {f"{group}/{side}/{name}": value for name, value in of_side.items()}
    return found if outcome.implication is None else {**found, "implication": outcome.implication}


def outcome_of(arrays: dict[str, np.ndarray]) -> Outcome:
    """The outcome whose `arrays_of` these are."""
    groups: dict[str, dict[Side, dict[str, np.ndarray]]] = {
        group: {side: {} for side in SIDES} for group in ("metrics", "uncertainty")
    }
    for name, value in arrays.items():
        match name.split("/", 2):
            case group, "image" | "caption" as side, measure:
                groups[group][side][measure] = value
    return Outcome(arrays["scores"], **groups, implication=arrays.get("implication"))


def pairs_of_captions(denotations: np.ndarray, *, seed: int) -> tuple[np.ndarray, ...]:
    """Pairs of captions (pair), as many of which are nested as not: narrow, wide, implied.

    Of those that are not, neither implies the other.
    """
    sizes = denotations.sum(1)
    common = denotations.astype(np.float32) @ denotations.T.astype(np.float32)
    within = (common == sizes[:, None]) & (sizes[:, None] < sizes)
    apart = (common < sizes[:, None]) & (common < sizes)
    random = np.random.default_rng(seed)
    chosen = [np.argwhere(mask) for mask in (within, apart)]
    number = min(_PAIRS // 2, *map(len, chosen))
    nested, others = (random.permutation(pairs)[:number] for pairs in chosen)
    narrow, wide = np.concatenate([nested, others]).T
    return narrow, wide, np.arange(2 * number) < number


@functools.partial(jax.jit, static_argnames="most")
def _metrics(scores: jax.Array, positives: jax.Array, annotated: jax.Array, *, most: int):
    """Every metric (query) of scores (query, item)."""
    return {
        "R@1": retrieval.recall_at_k(scores, positives, k=1),
        "R@5": retrieval.recall_at_k(scores, positives, k=min(5, scores.shape[1])),
        "R-Precision": retrieval.r_precision(scores, positives, max_positives=most),
        "mAP@R": retrieval.map_at_r(scores, positives, max_positives=most),
        "annotated R@1": retrieval.recall_at_k(scores, annotated, k=1),
    }


def metrics_of(side: Side, scores: Any, trial: Trial) -> dict[str, np.ndarray]:
    """Every metric (query) of the scores (query, item) of one side as queries."""
    positives, annotated = (
        x if side == "image" else x.T for x in (trial.positives, trial.annotated)
    )
    most = int(positives.sum(1).max())
    return jax.tree.map(np.asarray, _metrics(scores, positives, annotated, most=most))


def metrics(scores: np.ndarray, trial: Trial) -> dict[Side, dict[str, np.ndarray]]:
    """Every metric of scores (image, caption), for both sides."""
    return {
        "image": metrics_of("image", scores, trial),
        "caption": metrics_of("caption", scores.T, trial),
    }


def ceiling(trial: Trial) -> dict[Side, dict[str, np.ndarray]] | None:
    """What ranking by the known match probability reaches, equal ones in random order.

    No one who knows nothing of the split has more R@1 of captions to expect; other metrics
    can be exceeded, and what was annotated is not asked.
    """
    return None if trial.truth is None else metrics(trial.truth.match_probability, trial)
