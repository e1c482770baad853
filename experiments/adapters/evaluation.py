"""What adapters make of a test: is retrieval what it was, are widths right, do they tell errors.

Failures are those of the frozen embeddings' own retrieval, so that all methods are asked the
same: which queries will fail?
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import probemb
from experiments.adapters.frozen import Frozen
from experiments.adapters.training import Model
from experiments.captions import retrieval
from experiments.captions.retrieval import SIDES, Outcome, Side
from experiments.runs.in_parts import in_parts
from probemb import adapters, pairwise
from probemb.numerics.euclidean import normalized, product

RANKINGS = ("locations", "query's location", "sampled distance")
"""How distributions rank, beside the frozen embeddings."""
OWN = "total, dropout"
"""The measure of uncertainty that an adapter is judged by."""
_AT_ONCE = 512


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
                    side: retrieval.metrics_of(side, of_side, trial)
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
