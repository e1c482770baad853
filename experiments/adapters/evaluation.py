"""What adapters make of a test: is retrieval what it was, are widths right, do they tell errors.

Failures are those of the frozen embeddings' own retrieval, so that all methods are asked the
same: which queries will fail? A trial merges texts whose vectors are the same into one.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import probemb
from experiments.adapters.training import Model
from experiments.captions import evaluation
from experiments.captions.evaluation import SIDES, Known, Outcome, Side, Trial
from experiments.data import embedding_files
from experiments.data.embedding_files import Embeddings, PairedEmbeddings, Part
from experiments.runs.in_parts import in_parts
from probemb import adapters, pairwise
from probemb.numerics.euclidean import normalized, product

RANKINGS = ("locations", "query's location", "sampled distance")
"""How distributions rank, beside the frozen embeddings."""
OWN = "total, dropout"
"""The measure of uncertainty that an adapter is judged by."""
_AT_ONCE = 512
_LOGIT_SCALES = np.geomspace(1.0, 300.0, 60).astype(np.float32)


class Frozen(NamedTuple):
    """Unit vectors of a test (item, dimension), and what else the files know of them.

    Attributes:
      trial: images, captions and their vectors, and who belongs to whom.
      partner: side -> (item), a caption that belongs to each image, an image of each caption.
      known_before: side -> (item), whether training has a vector with the same values.
      augmented: side -> (item, augmentation, dimension), where there are some.
      norms: side -> (item) before they became unit vectors, where they differ.
    """

    trial: Trial
    partner: dict[Side, np.ndarray]
    known_before: dict[Side, np.ndarray]
    augmented: dict[Side, np.ndarray]
    norms: dict[Side, np.ndarray]


class Fit(NamedTuple):
    """Whether the distributions of a side explain the partners' embeddings, of every seed.

    Attributes:
      temperature: (seed), fitted on validation pairs.
      loss: (seed, item), negative log-likelihood of a partner in nats per dimension.
      loss_tempered: the same at the temperature.
      central: (seed, item, dimension), central probabilities of the partner; None of directions.
      central_tempered: the same at the temperature.
    """

    temperature: np.ndarray
    loss: np.ndarray
    loss_tempered: np.ndarray
    central: np.ndarray | None
    central_tempered: np.ndarray | None


class Evaluation(NamedTuple):
    """What one method makes of a trial.

    Attributes:
      outcomes: of each seed: scores and metrics of frozen retrieval, its measures of uncertainty.
      rankings: ranking -> metrics (side -> metric -> (query)) of each seed.
      fits: side -> its fit.
    """

    outcomes: list[Outcome]
    rankings: dict[str, list[dict[Side, dict[str, np.ndarray]]]]
    fits: dict[Side, Fit]


def freeze(
    paired: PairedEmbeddings,
    part: Part,
    trained_on: tuple[np.ndarray, np.ndarray],
    known: Known | None = None,
) -> Frozen:
    """A part of the pairs as a test.

    Args:
      paired: images and texts.
      part: rows of them.
      trained_on: `embedding_files.keys` of the images and of the texts that are for training.
      known: what else is known, of a controlled benchmark.

    Raises:
      ValueError: all images or all texts are the same.
    """
    images, texts = paired.images, paired.texts
    own_keys: dict[Side, np.ndarray] = {
        "image": embedding_files.keys("test images", np.asarray(images.vectors[part.images])),
        "caption": embedding_files.keys("test texts", np.asarray(texts.vectors[part.texts])),
    }
    for name, found in zip(("images", "texts"), own_keys.values(), strict=True):
        if len(np.unique(found)) < 2:
            raise ValueError(f"{name} for testing must be two different ones at least, got one")
    vectors = embedding_files.rows(texts.vectors, part.texts)
    _, first, caption_of = np.unique(vectors, axis=0, return_index=True, return_inverse=True)
    caption_of = caption_of.reshape(-1)
    image_of = np.searchsorted(part.images, paired.image_of[part.texts])
    annotated = np.zeros((len(part.images), len(first)), bool)
    annotated[image_of, caption_of] = True
    rows: dict[Side, np.ndarray] = {"image": part.images, "caption": part.texts[first]}
    sides: dict[Side, Embeddings] = {"image": images, "caption": texts}
    captions = tuple(
        f"text {row}" if texts.texts is None else str(texts.texts[int(row)])
        for row in rows["caption"]
    )
    positives, truth = annotated, None
    if known is not None:
        positives, truth = known(images.ids[part.images], captions)
    trial = Trial(
        embedding_files.rows(images.vectors, part.images),
        captions,
        vectors[first],
        positives,
        annotated,
        truth,
    )
    random = np.random.default_rng(0)
    partner: dict[Side, np.ndarray] = {
        side: np.array([random.choice(np.flatnonzero(own)) for own in of_side])
        for side, of_side in zip(SIDES, (annotated, annotated.T), strict=True)
    }
    known_before: dict[Side, np.ndarray] = {
        "image": np.isin(own_keys["image"], trained_on[0]),
        "caption": np.isin(own_keys["caption"][first], trained_on[1]),
    }
    augmented: dict[Side, np.ndarray] = {
        side: embedding_files.rows(found.augmented, rows[side])
        for side, found in sides.items()
        if found.augmented is not None
    }
    norms: dict[Side, np.ndarray] = {
        side: np.linalg.norm(np.asarray(found.vectors[rows[side]], np.float64), axis=1)
        for side, found in sides.items()
        if not found.normalized
    }
    return Frozen(trial, partner, known_before, augmented, norms)


def fit_logit_scale(image: np.ndarray, text: np.ndarray) -> float:
    """The scale of cosines (pair, dimension) at which a softmax over pairs is most likely."""
    sides = [
        probemb.DiagonalGaussian(x, jnp.zeros_like(x)) for x in map(jnp.asarray, (image, text))
    ]
    losses = jax.lax.map(
        lambda scale: probemb.info_nce(*sides, logit_scale=scale), jnp.asarray(_LOGIT_SCALES)
    )
    return float(_LOGIT_SCALES[int(jnp.argmin(losses))])


_cosines = jax.jit(product)


@jax.jit
def _baselines(cosines: jax.Array, logit_scale: jax.Array) -> dict[str, jax.Array]:
    """What cosines (query, item) say of uncertainty: as they are, and as logits."""
    of_logits = evaluation.baselines(logit_scale * cosines)
    best = jax.lax.top_k(cosines, 2)[0]
    return {
        "minus best cosine": -best[:, 0],
        "minus margin": best[:, 1] - best[:, 0],
        "entropy over items": of_logits["entropy over items"],
    }


def frozen_outcome(frozen: Frozen, logit_scale: float) -> Outcome:
    """Retrieval by cosines, and what is to be had of uncertainty without any adapter.

    TTDA is the total variance of the embeddings of changed inputs, where files have them.
    """
    trial = frozen.trial
    scores = np.asarray(_cosines(trial.images, trial.texts))
    uncertainty: dict[Side, dict[str, np.ndarray]] = {}
    for side, of_side in zip(SIDES, (scores, scores.T), strict=True):
        measures = jax.tree.map(np.asarray, _baselines(of_side, jnp.float32(logit_scale)))
        if side in frozen.augmented:
            measures["TTDA"] = frozen.augmented[side].var(axis=1).sum(axis=1)
        if side in frozen.norms:
            measures["minus norm"] = -frozen.norms[side]
        uncertainty[side] = measures
    return Outcome(scores, evaluation.metrics(scores, trial), uncertainty, None)


# --- distributions ----------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=0)
def _apply(model: Model, parameters: Any, embedding: jax.Array) -> Any:
    """Distributions (item, seed, ...) of embeddings (item, dimension)."""
    return jax.vmap(lambda p: model.adapter.apply(p, embedding), out_axes=1)(parameters)


def distributions(model: Model, parameters: Any, embedding: np.ndarray) -> Any:
    """Distributions (seed, item, dimension) of any number of embeddings, without dropout."""
    found = in_parts(functools.partial(_apply, model, parameters), embedding, _AT_ONCE)
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), found)


def _log_trace(log_variance: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(log_variance, axis=-1)


@functools.partial(jax.jit, static_argnames=("model", "num_members"))
def _uncertainty(
    parameters: Any,
    temperature: jax.Array,
    embedding: jax.Array,
    *,
    model: Model,
    key: jax.Array,
    num_members: int,
) -> dict[str, jax.Array]:
    """Logarithms of total variances (item, seed)."""
    keys = jax.random.split(key, num_members)

    def of_seed(p: Any, t: jax.Array) -> Any:
        """By dropout, and without."""

        def tempered(key: jax.Array | None) -> Any:
            return probemb.tempered(model.adapter.apply(p, embedding, key=key), temperature=t)

        return adapters.uncertainty(jax.vmap(tempered)(keys)), tempered(None)

    dropout, alone = jax.vmap(of_seed)(parameters, temperature)
    seeds = len(jax.tree.leaves(parameters)[0])
    single = jax.tree.map(lambda leaf: leaf[:, None], alone)
    measures = {
        "aleatoric": _log_trace(jax.vmap(adapters.uncertainty)(single).log_aleatoric),
        "epistemic, dropout": _log_trace(dropout.log_epistemic),
        OWN: _log_trace(dropout.log_total),
    }
    if seeds > 1:
        ensemble = adapters.uncertainty(alone)
        measures["epistemic, ensemble"] = _log_trace(ensemble.log_epistemic)
        measures["total, ensemble"] = _log_trace(ensemble.log_total)
    shape = (seeds, len(embedding))
    return {name: jnp.broadcast_to(value, shape).T for name, value in measures.items()}


def uncertainty(
    model: Model,
    parameters: Any,
    temperature: np.ndarray,
    embedding: np.ndarray,
    *,
    key: jax.Array,
    num_members: int,
) -> dict[str, np.ndarray]:
    """Every measure of uncertainty (item, seed), each the logarithm of a total variance.

    Args:
      model: of the parameters.
      parameters: of one side and all seeds.
      temperature: (seed), of that side.
      embedding: (item, dimension).
      key: of dropout.
      num_members: passes with dropout.
    """

    def of_part(part: np.ndarray) -> dict[str, jax.Array]:
        options = {"model": model, "key": key, "num_members": num_members}
        return _uncertainty(parameters, temperature, part, **options)

    return jax.tree.map(np.asarray, in_parts(of_part, embedding, _AT_ONCE))


def _location(p: Any) -> jax.Array:
    return normalized(p[0])


@jax.jit
def _rankings(image: Any, text: Any, frozen_image: jax.Array, frozen_text: jax.Array) -> Any:
    """Scores of one seed's distributions: of each side as queries, (query, item)."""
    of_image, of_text = _location(image), _location(text)
    cosines = product(of_image, of_text)
    gaussians = (probemb.DiagonalGaussian(p[0], jnp.log(p.variance)) for p in (image, text))
    distance = pairwise.sampled_distance(*gaussians)
    return {
        "locations": (cosines, cosines.T),
        "query's location": (product(of_image, frozen_text), product(of_text, frozen_image)),
        "sampled distance": (-distance, -distance.T),
    }


@jax.jit
def _fit(p: Any, target: jax.Array, temperature: jax.Array) -> Any:
    """Loss and central probabilities of one seed (item, ...), plain and tempered."""

    def of(p: Any) -> Any:
        central = p.central_probability(target) if hasattr(p, "central_probability") else None
        return -p.log_prob(target) / target.shape[-1], central

    return of(p), of(probemb.tempered(p, temperature=temperature))


_fit_temperature = jax.jit(jax.vmap(probemb.fit_temperature, (0, None)))


def temperatures(
    model: Model, parameters: dict[Side, Any], image: np.ndarray, caption: np.ndarray
) -> dict[Side, np.ndarray]:
    """Temperatures (seed) of each side, fitted on pairs (pair, dimension) that were set aside."""
    of_image = distributions(model, parameters["image"], image)
    of_caption = distributions(model, parameters["caption"], caption)
    return {
        "image": np.asarray(_fit_temperature(of_image, caption)),
        "caption": np.asarray(_fit_temperature(of_caption, image)),
    }


def evaluate(
    model: Model,
    parameters: dict[Side, Any],
    frozen: Frozen,
    before: Outcome,
    temperature: dict[Side, np.ndarray],
    *,
    key: jax.Array,
    num_members: int,
) -> Evaluation:
    """Run the adapters of a method on a trial.

    Args:
      model: of the parameters.
      parameters: of both sides and all seeds.
      frozen: the trial.
      before: the outcome of the frozen embeddings.
      temperature: side -> (seed).
      key: of dropout.
      num_members: passes with dropout.
    """
    trial = frozen.trial
    vectors: dict[Side, np.ndarray] = {"image": trial.images, "caption": trial.texts}
    embedded = {side: distributions(model, parameters[side], vectors[side]) for side in SIDES}
    measures = {
        side: uncertainty(
            model,
            parameters[side],
            temperature[side],
            vectors[side],
            key=key,
            num_members=num_members,
        )
        for side in SIDES
    }
    of_seeds = [
        {side: _member(embedded[side], seed) for side in SIDES}
        for seed in range(len(temperature["image"]))
    ]
    outcomes = [
        before._replace(
            uncertainty={
                side: {name: values[:, seed] for name, values in measures[side].items()}
                for side in SIDES
            }
        )
        for seed in range(len(of_seeds))
    ]
    rankings: dict[str, list[Any]] = {name: [] for name in RANKINGS}
    for p in of_seeds:
        scores = _rankings(p["image"], p["caption"], trial.images, trial.texts)
        for name, of_sides in scores.items():
            rankings[name].append(
                {
                    side: evaluation.metrics_of(side, of_side, trial)
                    for side, of_side in zip(SIDES, of_sides, strict=True)
                }
            )
    partners: dict[Side, np.ndarray] = {
        "image": trial.texts[frozen.partner["image"]],
        "caption": trial.images[frozen.partner["caption"]],
    }
    fits: dict[Side, Fit] = {}
    for side, target in partners.items():
        found = [
            _fit(p[side], target, jnp.asarray(t))
            for p, t in zip(of_seeds, temperature[side], strict=True)
        ]
        (plain, central), (tempered, central_tempered) = jax.tree.map(
            lambda *leaves: np.stack(leaves), *found
        )
        fits[side] = Fit(temperature[side], plain, tempered, central, central_tempered)
    return Evaluation(outcomes, rankings, fits)


def _member(p: Any, which: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[which], p)
