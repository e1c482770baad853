"""A user's program, for a type checker in strict mode: the public names have types.

It is run by nothing; `.ci/run` checks it where only the wheel is installed. jax.numpy's own
constructors are partly untyped, so zeros and ones are made by arithmetic here.
"""
# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

import jax
import numpy as np

import lasi_jax
import probemb
from lasi_jax import agreement, competition, deep_features, structural
from lasi_jax.networks import squeezenet
from probemb import (
    DiagonalGaussian,
    GaussianMixture,
    GeneralizedGaussian,
    VonMisesFisher,
    calibration,
    distances,
    hyperbolic,
    monte_carlo,
    pairwise,
    retrieval,
    search,
)


def images(
    key: jax.Array, x: jax.Array, y: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
) -> None:
    """LASI, the metrics beside it and how they are judged."""
    number: jax.Array = lasi_jax.distance(x, y, neighborhood_size=8, prior=1.0)
    per_pixel: jax.Array = lasi_jax.distance_map(x, y, mask=0.0 * x + 1.0)
    described: jax.Array = lasi_jax.embedding(x) + lasi_jax.coefficients(x)
    predicted: jax.Array = lasi_jax.prediction(x, value_range=(0.0, 255.0))
    similar: jax.Array = structural.ssim(x, y) + structural.ms_ssim(x, y)
    parameters = squeezenet.initialize(key, version="1.1")

    def features(image: jax.Array) -> tuple[jax.Array, ...]:
        return squeezenet.features(image, parameters=parameters)

    deep: jax.Array = deep_features.distance(x, y, features=features)
    agreed: float = agreement.two_afc([0.1, 0.4], [0.3, 0.2], [0.2, 0.6])
    path = competition.differentiate(
        x, y, held=lasi_jax.distance, moved=lasi_jax.distance, direction="least", num_steps=2
    )
    last: jax.Array = path.moved[-1]
    print(number, per_pixel, described, predicted, similar, deep, agreed, last)
    lasi_jax.distance(x, y, neighborhood_size="ten")  # pyright: ignore[reportArgumentType]


def embeddings(key: jax.Array, points: jax.Array) -> None:
    """Distributions, their losses, and whether they can be trusted."""
    zeros, ones = 0.0 * points, 0.0 * points + 1.0
    p = DiagonalGaussian(points, zeros)
    shaped = GeneralizedGaussian(points, ones, ones)
    on_sphere = VonMisesFisher(points, ones[:, 0])
    mixture = GaussianMixture(zeros[:, 0], p)
    samples: jax.Array = p.sample(key, (3,)) + p.variance
    losses: list[jax.Array] = [
        probemb.pcmepp(p, p, negative_scale=5.0, shift=points[0, 0]),
        probemb.pcme(key, p, p, negative_scale=5.0, shift=5.0),
        probemb.prolip(p, p, logit_scale=10.0, logit_bias=-10.0, labels=np.eye(len(points))),
        probemb.info_nce(p, p, logit_scale=10.0),
        probemb.meru(points, points, logit_scale=10.0, curvature=1.0),
        probemb.probvlm(shaped, shaped, points, points, cross_modal_weight=1.0),
        probemb.reconstruction(on_sphere, points),
        probemb.kl_to_standard_normal(p),
        probemb.self_mismatch(mixture, negative_scale=5.0, shift=5.0),
        probemb.expected_match_probability(mixture, mixture, negative_scale=1.0, shift=0.0),
        distances.wasserstein_2(p, p),
        pairwise.sampled_distance(p, p),
        hyperbolic.lorentz_distance(points, points, curvature=1.0),
        monte_carlo.entropy(key, mixture, num_samples=4),
    ]
    narrower: GeneralizedGaussian = probemb.tempered(shaped, temperature=0.5)
    mixed, shares = probemb.mixup(key, points, np.arange(len(points)))
    labels: jax.Array = probemb.soft_labels(np.arange(len(points)), shares)
    found = search.top_k(search.query_vectors(p), search.item_vectors(shaped), k=3)
    right: jax.Array = retrieval.recall_at_k(points @ points.T, np.eye(len(points)) > 0, k=1)
    area: jax.Array = calibration.r_auroc(p.variance.sum(1), right)
    print(samples, losses, narrower.shape, mixed, labels, found.indices, area)
    probemb.pcmepp(points, p, negative_scale=5.0, shift=5.0)  # pyright: ignore[reportArgumentType]
    probemb.pcmepp(p, p, negative_scale="5", shift=5.0)  # pyright: ignore[reportArgumentType]
