"""Embeddings that are distributions: what they are, how they match, how they learn.

Pure functions of arrays, ready for `jit`, `grad` and `vmap`; but for the
last ones they need jax alone. Data flows down this list:

    numerics
        arguments             what users pass -> checked float arrays
        euclidean             lengths and distances of points, gradient-safe
        bessel                the modified Bessel function, of any order, in logarithms
        reduction             all pairs of a batch in blocks, on one device or a ring of them
        sharding              a loss over the devices of a mesh
    distributions
        gaussians             DiagonalGaussian and GaussianMixture
        generalized_gaussian  GeneralizedGaussian
        von_mises_fisher      VonMisesFisher
        monte_carlo           entropy and divergence from samples
    pairs
        distances             between two Gaussians
        pairwise              between all pairs of two sets
        separation            the distribution of the distance of two samples, by quadrature
        matching              the probability that two inputs match
    losses
        batches               batches of pairs with labels, checked
        regularizers          the bottleneck, uniformity
        contrastive           HIB, PCME
        logistic              PCME++, ProLIP, SigLIP
        softmax               its cross-entropies over rows and columns, from tiles
        ranking               InfoNCE, triplet
        hyperbolic            MERU: distances, cones and the loss in the Lorentz model
        inclusion             ProLIP's inclusion test and losses
        reconstruction        ProbVLM, BayesCap, PFE: losses of adapters on frozen embeddings
        temperature           distributions made wider or narrower after training
        mixing                Mixup and CutMix with soft labels
    judging
        retrieval             recall@K, R-Precision, mAP@R, PMRP, with many positives and ties
        ranks                 where weighted items stand in an order, whether two orders agree
        calibration           does uncertainty predict error, are probabilities frequencies
    search                    sampled distance as inner products, the best k, match probability next
    serving                   Faiss and Qdrant; needs the extra `serving`, imported by name
    heads                     Flax: features -> embedding; needs flax, imported by name
    adapters                  Flax: frozen embedding -> distribution; needs flax, imported by name
"""

import importlib

from probemb import search
from probemb.distributions import monte_carlo
from probemb.distributions.gaussians import DiagonalGaussian, GaussianMixture
from probemb.distributions.generalized_gaussian import GeneralizedGaussian
from probemb.distributions.von_mises_fisher import VonMisesFisher
from probemb.judging import calibration, retrieval
from probemb.losses import hyperbolic
from probemb.losses.contrastive import (
    pcme,
    pcme_of_samples,
    pcme_quadrature,
    pcme_released,
    soft_contrastive,
    soft_contrastive_of_samples,
    soft_contrastive_quadrature,
)
from probemb.losses.hyperbolic import meru
from probemb.losses.inclusion import (
    inclusion_loss,
    inclusion_loss_released,
    inclusion_test,
    inclusion_test_released,
    masked_inclusion_loss,
)
from probemb.losses.logistic import pcmepp, prolip, siglip
from probemb.losses.mixing import cutmix, mixup, soft_labels
from probemb.losses.ranking import info_nce, triplet
from probemb.losses.reconstruction import (
    bayescap,
    pfe,
    probvlm,
    probvlm_released,
    reconstruction,
    reconstruction_released,
)
from probemb.losses.regularizers import kl_to_standard_normal, uniformity
from probemb.losses.temperature import fit_temperature, tempered
from probemb.numerics.sharding import sharded
from probemb.pairs import distances, pairwise
from probemb.pairs.matching import (
    closed_form_match_logit,
    expected_match_probability,
    log_expected_match_probability,
    monte_carlo_match_probability,
    monte_carlo_self_mismatch,
    self_mismatch,
)

__all__ = [
    "DiagonalGaussian",
    "GaussianMixture",
    "GeneralizedGaussian",
    "VonMisesFisher",
    "bayescap",
    "calibration",
    "closed_form_match_logit",
    "cutmix",
    "distances",
    "expected_match_probability",
    "fit_temperature",
    "hyperbolic",
    "inclusion_loss",
    "inclusion_loss_released",
    "inclusion_test",
    "inclusion_test_released",
    "info_nce",
    "kl_to_standard_normal",
    "log_expected_match_probability",
    "masked_inclusion_loss",
    "meru",
    "mixup",
    "monte_carlo",
    "monte_carlo_match_probability",
    "monte_carlo_self_mismatch",
    "pairwise",
    "pcme",
    "pcme_of_samples",
    "pcme_quadrature",
    "pcme_released",
    "pcmepp",
    "pfe",
    "probvlm",
    "probvlm_released",
    "prolip",
    "reconstruction",
    "reconstruction_released",
    "retrieval",
    "search",
    "self_mismatch",
    "sharded",
    "siglip",
    "soft_contrastive",
    "soft_contrastive_of_samples",
    "soft_contrastive_quadrature",
    "soft_labels",
    "tempered",
    "triplet",
    "uniformity",
]

__version__ = "0.1.0"
_BY_NAME = ("adapters", "heads", "serving")


def __getattr__(name: str):
    """What is imported by name is there without an import, too."""
    if name in _BY_NAME:
        return importlib.import_module(f"probemb.{name}")
    raise AttributeError(f"module 'probemb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_BY_NAME, "__version__"])
