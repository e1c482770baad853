"""One row for every public function: small valid arguments, and what it does not promise.

A new function needs a row. `draw(d)` gives its array arguments by name, a key as an integer seed;
`options` are its static ones. Every property is tested of every function; what a function cannot
do stands in `but`, with the reason.
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import AxisType
from qdrant_client import QdrantClient

import lasi_jax
import probemb
from lasi_jax import structural
from lasi_jax.networks import squeezenet, trunks
from probemb import adapters, heads, serving
from tests.properties.draws import Draw

PROPERTIES = {
    "call": "it can be called here",
    "finite": "what it returns for valid arguments is finite",
    "jit": "`jit`, `vmap` and `shard_map`, on meshes of either kind, change nothing",
    "explicit": "`vmap` over examples that an Explicit mesh shards is among them",
    "mesh": "`shard_map` and meshes may surround it",
    "gradient": "its derivatives in all floating arguments exist and are finite",
    "forward": "it has derivatives in forward mode, too",
    "float32": "its float32 result is near its float64 one",
    "again": "a second call compiles nothing",
    "bytes": "big-endian, strided and extended floats give the same, or one clear error",
}


class Row(NamedTuple):
    """What a function is called with.

    Attributes:
      draw: of a `Draw`, to arrays by the names of arguments; `key` is an integer seed.
      options: the static arguments.
      call: how the function is called with both, if not just by keyword.
      float32: how near float32 comes to float64, in units of the results' greatest magnitude
        or of 1.
      gradient32: the same of the derivatives.
      batches: how many are drawn; few where a call takes long.
      but: the properties that it does not have, each with the reason.
    """

    draw: Callable[[Draw], dict[str, Any]]
    options: Mapping[str, Any] = {}
    call: Callable[..., Any] = lambda function, **arguments: function(**arguments)
    float32: float = 1e-4
    gradient32: float = 1e-3
    batches: int = 8
    but: Mapping[str, str] = {}


# What need not be imported with its package.
BY_NAME = (
    *(
        "lasi_jax.networks.squeezenet",
        "lasi_jax.networks.trunks",
        "lasi_jax.networks.lpips_heads",
        "lasi_jax.networks.weight_files",
    ),
    *("probemb.heads", "probemb.adapters", "probemb.serving"),
)


def _functions_of(value: Any):
    """A function by itself, a class by its methods and properties."""
    if inspect.isfunction(value):
        yield "", value
    elif inspect.isclass(value) and not getattr(value, "_is_protocol", False):  # nothing to call
        for name, part in vars(value).items():
            part = part.fget if isinstance(part, property) else part
            if inspect.isfunction(part) and (name[0] != "_" or name == "__call__"):
                yield f".{name}", part


def public_functions() -> dict[str, Callable]:
    """Every public function and method, once, by the name under which it is found first."""
    modules = {"lasi_jax": lasi_jax, "probemb": probemb}
    for package in (lasi_jax, probemb):
        parts = {f"{package.__name__}.{name}": getattr(package, name) for name in package.__all__}
        modules |= {name: part for name, part in parts.items() if inspect.ismodule(part)}
    modules |= {name: importlib.import_module(name) for name in BY_NAME}
    found = {}
    for public, module in modules.items():
        own = [
            name
            for name, value in vars(module).items()
            if name[0] != "_" and getattr(value, "__module__", "") == module.__name__
        ]
        for name in vars(module).get("__all__", own):
            for part, function in _functions_of(getattr(module, name)):
                if function not in found.values():
                    found[f"{public}.{name}{part}"] = function
    return found


def _rows(module: str, names: str, row: Row) -> dict[str, Row]:
    return {f"{module}.{name}": row for name in names.split()}


def _of(*names: str, **options: Any) -> Callable[[Draw], dict[str, Any]]:
    """Two Gaussians of these names."""
    return lambda d: dict(zip(names, d.gaussians(3, **options), strict=True))


def _in_precision_of(values: Any, parameters: Any) -> Any:
    single = getattr(values, "dtype", None) == np.float32
    return jax.tree.map(lambda x: x.astype(np.float32 if single else np.float64), parameters)


def _network(make: Callable) -> Callable:
    """A call with the parameters of a network, in the precision of the image."""

    def call(function, image, **arguments):
        parameters = _in_precision_of(image, call.prepare())
        return function(image, parameters=parameters, **arguments)

    call.prepare = functools.cache(make)
    return call


def _fixed(**fixed: Any) -> Callable:
    """A call with arguments that no draw gives, made once and before anything is traced."""

    def call(function, **arguments):
        return function(**call.prepare(), **arguments)

    call.prepare = functools.cache(lambda: {name: make() for name, make in fixed.items()})
    return call


# --- lasi_jax -------------------------------------------------------------------------------


def _pair(*shape: int) -> Callable[[Draw], dict[str, Any]]:
    return lambda d: dict(zip("xy", d.images(*shape), strict=True))


def _squares(x, y):
    return jnp.mean(jnp.square(x - y))


def _fourth(x, y):
    return jnp.mean(jnp.square(jnp.square(x - y)))


def _maps(image):
    return [image, image[::2, ::2]]


def _step(step, x, y, **options):
    state = lasi_jax.competition.begin(x, y, held=_squares, moved=_fourth)
    return step(x, state, **options)


_PLAYERS = {"held": _squares, "moved": _fourth}
_LASI = {"neighborhood_size": 3}
_NO_FORWARD = {"forward": "its gradient is written by hand, in reverse mode: a custom_vjp"}
_SEARCH = {
    name: "a search whose number of rounds depends on the values: a while loop"
    for name in ("gradient", "forward")
}
_HOST = {name: "NumPy, on the host" for name in ("jit", "gradient", "forward", "float32")}
_EXPLICIT = {"explicit": "JAX cannot tell how its gathers and random loops are sharded then"}
_FILE = Row(lambda d: {}, but={"call": "it reads a file of weights, and computes nothing"})


def _noisy(d: Draw) -> dict[str, Any]:
    """An image and another at a distance that is not 0."""
    x = d.between(0.2, 0.8, (4, 5))
    return {"x": x, "y": x + 0.1 * d.between(-1.0, 1.0, (4, 5))}


def _opinions(*names: str) -> Callable[[Draw], dict[str, Any]]:
    return lambda d: {name: d.floats(12) for name in names}


LASI_JAX = {
    **_rows(
        "lasi_jax",
        "coefficients embedding prediction",
        Row(lambda d: {"image": d.image(5, 6)}, _LASI, but=_NO_FORWARD),
    ),
    **_rows(
        "lasi_jax",
        "distance distance_map",
        # Where an area is of middle grey, its direction is that of noise.
        Row(_pair(5, 6), _LASI, gradient32=0.05, but=_NO_FORWARD),
    ),
    **_rows("lasi_jax.structural", "ssim ssim_map", Row(_pair(12, 13, 2))),
    "lasi_jax.structural.ms_ssim": Row(
        _pair(21, 22), {"weights": structural.WEIGHTS[:2]}, gradient32=0.01
    ),
    **_rows(
        "lasi_jax.deep_features",
        "distance distance_map feature_reconstruction style_reconstruction deepsim",
        Row(_pair(4, 6, 3), {"features": _maps}, gradient32=0.01),
    ),
    "lasi_jax.competition.begin": Row(_noisy, _PLAYERS),
    "lasi_jax.competition.step": Row(
        _noisy, {**_PLAYERS, "direction": "least"}, _step, but=_SEARCH
    ),
    "lasi_jax.competition.differentiate": Row(
        _noisy, {**_PLAYERS, "direction": "greatest", "num_steps": 2}, but=_SEARCH
    ),
    "lasi_jax.competition.compete": Row(
        _noisy, {"first": _squares, "second": _fourth, "num_steps": 2}, but=_SEARCH
    ),
    "lasi_jax.agreement.two_afc": Row(
        lambda d: {**_opinions("distance_0", "distance_1")(d), "preference": d.shares(12)},
        but=_HOST,
    ),
    "lasi_jax.agreement.human_ceiling": Row(lambda d: {"preference": d.shares(12)}, but=_HOST),
    "lasi_jax.agreement.jnd_average_precision": Row(
        lambda d: {"distance": d.floats(12), "same": d.binary(12)}, but=_HOST
    ),
    **_rows("lasi_jax.agreement", "srcc krcc", Row(_opinions("score", "opinion"), but=_HOST)),
    **_rows(
        "lasi_jax.agreement",
        "plcc fit_logistic",
        Row(_opinions("score", "opinion"), {"curve": "logistic5"}, but=_HOST),
    ),
    "lasi_jax.agreement.bootstrap_interval": Row(
        lambda d: {"key": d.seed(), **_opinions("score", "opinion")(d)},
        {"num_resamples": 20},
        lambda interval, key, score, opinion, **options: interval(
            key, lasi_jax.agreement.srcc, score, opinion, **options
        ),
        but=_HOST,
    ),
    "lasi_jax.agreement.LogisticFit.__call__": Row(
        _opinions("score"),
        call=_fixed(
            self=lambda: lasi_jax.agreement.LogisticFit("logistic4", np.array([5.0, 1.0, 0.2, 0.5]))
        ),
        but=_HOST,
    ),
    "lasi_jax.networks.squeezenet.initialize": Row(
        lambda d: {"key": d.seed()}, {"version": "1.1"}, batches=1
    ),
    **_rows(
        "lasi_jax.networks.squeezenet",
        "features logits",
        Row(
            lambda d: {"image": d.image(17, 17, 3)},
            batches=1,
            call=_network(lambda: squeezenet.initialize(jax.random.key(0), version="1.1")),
        ),
    ),
    "lasi_jax.networks.trunks.initialize": Row(
        lambda d: {"key": d.seed()}, {"network": "alexnet"}, batches=1
    ),
    "lasi_jax.networks.trunks.features": Row(
        lambda d: {"image": d.image(31, 31, 3)},
        batches=1,
        options={"layers": ("conv1",)},
        call=_network(lambda: trunks.initialize(jax.random.key(0), network="alexnet")),
    ),
    **_rows("lasi_jax.networks", "squeezenet.load trunks.load lpips_heads.load", _FILE),
    **_rows("lasi_jax.networks.weight_files", "names read load", _FILE),
    "lasi_jax.networks.weight_files.faults": Row(
        lambda d: {"arrays": {"conv": d.floats(2, 3)}}, {"shapes": {"conv": (2, 3)}}, but=_HOST
    ),
}


# --- probemb --------------------------------------------------------------------------------


def _self(make: Callable[[Draw], Any]) -> Row:
    return Row(lambda d: {"self": make(d)})


def _sampled(make: Callable[[Draw], Any], **options: Any) -> Row:
    return Row(lambda d: {"self": make(d), "key": d.seed()}, options or {"shape": (2,)})


def _gaussian(d: Draw):
    return d.gaussian(2, 3)


def _mixture(d: Draw):
    return d.mixture(2, 3)


def _generalized(d: Draw):
    return d.generalized(2, 3)


def _von_mises_fisher(d: Draw):
    return d.von_mises_fisher(2, 3)


def _log_prob(make: Callable[[Draw], Any]) -> Row:
    """Points that may be the mean itself."""

    def draw(d: Draw) -> dict[str, Any]:
        p = make(d)
        location = p.components.mean[:, 0] if hasattr(p, "components") else p[0]
        return {"self": p, "x": location if d.rarely() else d.floats(2, 3)}

    return Row(draw)


def _unit_log_prob(d: Draw) -> dict[str, Any]:
    p = _von_mises_fisher(d)
    return {"self": p, "x": p.mean_direction if d.rarely() else d.unit(2, 3)}


def _sigmoid(d: Draw) -> dict[str, Any]:
    return {"negative_scale": d.positive(0.1, 30.0), "shift": d.between(-30.0, 30.0)}


def _batches(*names: str, parameters=lambda d: {}, **options: Any) -> Row:
    """A loss of a batch of four Gaussians of each name."""
    return Row(
        lambda d: {**dict(zip(names, d.gaussians(4, 3), strict=True)), **parameters(d)}, options
    )


def _keyed(row: Row) -> Row:
    return row._replace(draw=lambda d: {"key": d.seed(), **row.draw(d)})


def _samples(d: Draw, *names: str) -> dict[str, Any]:
    return {name: d.floats(4, 2, 3, decades=1.0) for name in names}


def _logit(d: Draw) -> dict[str, Any]:
    return {"logit_scale": d.positive(0.5, 50.0), "logit_bias": d.between(-20.0, 20.0)}


def _tangents(d: Draw, *names: str) -> dict[str, Any]:
    return {name: d.floats(4, 3, decades=1.0) for name in names}


def _cone(d: Draw) -> dict[str, Any]:
    return {"curvature": d.positive(0.1, 10.0), "min_radius": d.positive(0.05, 0.5)}


def _items(d: Draw, name: str) -> dict[str, Any]:
    """Uncertain items that are right or wrong, both of them, and how often each counts."""
    return {
        "uncertainty": d.floats(12),
        name: d.binary(12),
        "weights": 1.0 + d.random.integers(0, 3, 12),
    }


def _predicted(d: Draw) -> dict[str, Any]:
    return {"probability": d.shares(12), "match": d.binary(12), "weights": 1.0 + d.shares(12)}


def _ranked(d: Draw) -> dict[str, Any]:
    return {"scores": d.floats(4, 6), "positives": d.binary(4, 6) > 0}


def _head(make: Callable) -> Callable:
    """A call of a Flax module whose parameters have the precision of what it is called with."""

    def call(function, features, **arguments):
        graph, state = call.prepare()
        head = nnx.merge(graph, _in_precision_of(features, state))
        with jax.numpy_dtype_promotion("standard"):  # of float64 Flax's own layers demand it
            return function(head, features, **arguments)

    call.prepare = functools.cache(lambda: nnx.split(make(rngs=nnx.Rngs(0))))
    return call


def _adapted(apply, embedding, **arguments):
    parameters = _ADAPTER.initialize(jax.random.key(0))
    return apply(_ADAPTER, _in_precision_of(embedding, parameters), embedding, **arguments)


def _features(head: Callable) -> Row:
    """A head of pooled features, and of local ones."""
    return Row(lambda d: {"features": d.floats(4, 5, decades=0.5)}, call=_head(head))


def _local_features(head: Callable) -> Row:
    return _features(head)._replace(
        draw=lambda d: {
            "features": d.floats(4, 5, decades=0.5),
            "local": d.floats(4, 3, 6, decades=0.5),
        }
    )


_ADAPTER = adapters.Adapter(3, hidden=(4,))


_OWN_MESH = {"mesh": "it has a mesh of its own"}


def _mesh():
    return jax.make_mesh((2,), ("batch",), axis_types=(AxisType.Auto,))


def _frozen(d: Draw) -> dict[str, Any]:
    return {"image_embedding": d.floats(4, 3), "text_embedding": d.floats(4, 3)}


def _negative_distance(p, q):
    return -probemb.pairwise.sampled_distance(p, q)


def _mixed(*shape: int) -> Row:
    return Row(
        lambda d: {
            "key": d.seed(),
            "image": d.image(4, *shape),
            "partner": d.random.permutation(4),
            "concentration": d.positive(0.1, 10.0),
        }
    )


def _vectors(d: Draw) -> dict[str, Any]:
    """Of few bits: inner products are exact, and tie in either precision."""
    whole = {"queries": d.random.integers(-8, 9, (4, 3)), "items": d.random.integers(-8, 9, (6, 3))}
    return {name: values / 4.0 for name, values in whole.items()}


def _by_faiss(_, items):
    return serving.search_faiss(serving.faiss_index(items), items, k=2)


def _by_qdrant(_, items):
    client = QdrantClient(":memory:")
    serving.fill_qdrant(client, "items", items)
    return serving.search_qdrant(client, "items", items, k=2)


PROBEMB = {
    **_rows("probemb.DiagonalGaussian", "variance standard_deviation entropy", _self(_gaussian)),
    **_rows(
        "probemb.GaussianMixture",
        "weights mean variance",
        # Of the weights: a small difference of squares.
        _self(_mixture)._replace(gradient32=0.1),
    ),
    **_rows(
        "probemb.GeneralizedGaussian", "mean log_variance variance entropy", _self(_generalized)
    ),
    **_rows(
        "probemb.VonMisesFisher",
        "mean_resultant_length mean variance entropy",
        _self(_von_mises_fisher),
    ),
    "probemb.DiagonalGaussian.sample": _sampled(_gaussian),
    "probemb.GaussianMixture.sample": _sampled(_mixture),
    "probemb.GaussianMixture.stratified_sample": _sampled(_mixture, number=2),
    "probemb.GeneralizedGaussian.sample": _sampled(_generalized)._replace(but=_EXPLICIT),
    "probemb.VonMisesFisher.sample": _sampled(_von_mises_fisher)._replace(but=_EXPLICIT),
    **_rows("probemb.DiagonalGaussian", "log_prob central_probability", _log_prob(_gaussian)),
    "probemb.GaussianMixture.log_prob": _log_prob(_mixture),
    **_rows("probemb.GeneralizedGaussian", "log_prob central_probability", _log_prob(_generalized)),
    "probemb.VonMisesFisher.log_prob": Row(_unit_log_prob),
    "probemb.DiagonalGaussian.kl_divergence": Row(_of("self", "other")),
    "probemb.GeneralizedGaussian.kl_divergence_at_equal_location": Row(
        lambda d: {"self": _generalized(d), "other": _generalized(d)}
    ),
    "probemb.VonMisesFisher.kl_divergence": Row(
        lambda d: {"self": _von_mises_fisher(d), "other": _von_mises_fisher(d)}
    ),
    **_rows(
        "probemb.distances",
        "sampled_distance wasserstein_2 kl_divergence jeffreys_divergence "
        "geometric_jensen_shannon_divergence bhattacharyya_distance "
        "log_expected_likelihood_kernel mutual_likelihood_score",
        Row(_of("p", "q")),
    ),
    **_rows(
        "probemb.pairwise",
        "sampled_distance wasserstein_2 kl_divergence jeffreys_divergence "
        "geometric_jensen_shannon_divergence bhattacharyya_distance "
        "log_expected_likelihood_kernel mutual_likelihood_score",
        Row(lambda d: dict(zip("pq", d.gaussians(3, 2), strict=True))),
    ),
    "probemb.monte_carlo.entropy": Row(
        lambda d: {"key": d.seed(), "p": _mixture(d)}, {"num_samples": 2}
    ),
    "probemb.monte_carlo.kl_divergence": Row(
        lambda d: {"key": d.seed(), "p": _mixture(d), "q": _mixture(d)}, {"num_samples": 2}
    ),
    **_rows(
        "probemb",
        "closed_form_match_logit expected_match_probability log_expected_match_probability",
        Row(lambda d: {**_of("p", "q")(d), **_sigmoid(d)}),
    ),
    "probemb.monte_carlo_match_probability": Row(
        lambda d: {"x": d.floats(2, 3), "y": d.floats(3, 3), **_sigmoid(d)}
    ),
    "probemb.self_mismatch": Row(lambda d: {"p": d.gaussian(3), **_sigmoid(d)}),
    "probemb.monte_carlo_self_mismatch": Row(
        lambda d: {"key": d.seed(), "p": d.mixture(3), **_sigmoid(d)}, {"num_samples": 2}
    ),
    "probemb.soft_contrastive": Row(
        lambda d: {
            **{"key": d.seed(), "p": d.mixture(3), "q": d.mixture(3), "match": d.shares()},
            **_sigmoid(d),
        },
        {"num_samples": 2},
    ),
    "probemb.soft_contrastive_of_samples": Row(
        lambda d: {
            **{"x": d.floats(2, 3), "y": d.floats(3, 3), "match": d.shares()},
            **_sigmoid(d),
        }
    ),
    "probemb.soft_contrastive_quadrature": Row(
        lambda d: {**_of("p", "q")(d), "match": d.shares(), **_sigmoid(d)}
    ),
    "probemb.pcme": _keyed(_batches("image", "text", parameters=_sigmoid, num_samples=2)),
    "probemb.pcme_quadrature": _batches("image", "text", parameters=_sigmoid)._replace(batches=2),
    "probemb.pcmepp": _batches(
        "image", "text", parameters=lambda d: {**_sigmoid(d), "labels": d.shares(4, 4)}
    )._replace(float32=0.1, gradient32=0.5),  # a pair is a pseudo-positive, or just not
    **_rows(
        "probemb",
        "pcme_of_samples pcme_released",
        Row(lambda d: {**_samples(d, "image_samples", "text_samples"), **_sigmoid(d)}),
    ),
    "probemb.prolip": _batches("image", "text", parameters=_logit),
    "probemb.siglip": _batches(
        "image", "text", parameters=lambda d: {**_logit(d), "labels": d.shares(4, 4)}
    ),
    "probemb.info_nce": _batches(
        "image", "text", parameters=lambda d: {"logit_scale": d.positive(0.5, 50.0)}
    ),
    "probemb.triplet": _batches(
        "image", "text", parameters=lambda d: {"margin": d.positive(0.05, 2.0)}
    ),
    "probemb.uniformity": Row(lambda d: {"points": d.floats(4, 3), "t": d.positive(0.2, 5.0)}),
    "probemb.kl_to_standard_normal": Row(lambda d: {"p": _gaussian(d)}),
    "probemb.meru": Row(
        lambda d: {
            **_tangents(d, "image", "text"),
            **_cone(d),
            "logit_scale": d.positive(0.5, 50.0),
        }
    ),
    "probemb.hyperbolic.entailment": Row(lambda d: {**_tangents(d, "image", "text"), **_cone(d)}),
    "probemb.hyperbolic.half_aperture": Row(lambda d: {**_tangents(d, "x"), **_cone(d)}),
    **_rows(
        "probemb.hyperbolic",
        "lorentz_distance exterior_angle",
        Row(lambda d: {**_tangents(d, "x", "y"), "curvature": d.positive(0.1, 10.0)}),
    ),
    "probemb.hyperbolic.exponential_map": Row(
        lambda d: {**_tangents(d, "x"), "curvature": d.positive(0.1, 10.0)}
    ),
    "probemb.inclusion_test": Row(_of("p", "q")),
    "probemb.inclusion_test_released": Row(
        lambda d: {**_of("p", "q")(d), "mean_weight": d.positive(1e-3, 1.0)}
    ),
    "probemb.inclusion_loss": Row(
        lambda d: {**_of("p", "q")(d), "scale": d.positive(0.1, 10.0)}, gradient32=1e-2
    ),
    "probemb.inclusion_loss_released": Row(
        lambda d: {
            **_of("p", "q")(d),
            "scale": d.positive(0.1, 10.0),
            "mean_weight": d.positive(1e-3, 1.0),
        }
    ),
    "probemb.masked_inclusion_loss": Row(
        lambda d: {
            **_of("image", "masked_image")(d),
            **_of("text", "masked_text")(d),
            "scale": d.positive(0.1, 10.0),
        },
        gradient32=1e-2,
    ),
    **_rows(
        "probemb",
        "reconstruction reconstruction_released",
        Row(lambda d: {"p": _generalized(d), "target": d.floats(2, 3)}),
    ),
    **_rows(
        "probemb",
        "probvlm probvlm_released",
        Row(
            lambda d: {
                "image": d.generalized(4, 3),
                "text": d.generalized(4, 3),
                **_frozen(d),
                "cross_modal_weight": d.positive(0.01, 100.0),
            }
        ),
    ),
    "probemb.bayescap": Row(
        lambda d: {
            "p": _generalized(d),
            "embedding": d.floats(2, 3),
            "target": d.floats(2, 3),
            "identity_weight": d.positive(0.01, 100.0),
        }
    ),
    "probemb.pfe": _batches("image", "text"),
    "probemb.tempered": Row(
        lambda d: {"p": _von_mises_fisher(d), "temperature": d.positive(0.1, 10.0)}
    ),
    "probemb.fit_temperature": Row(
        lambda d: {"p": d.gaussian(2, 3, log_variance=5.0, decades=0.5), "target": d.floats(2, 3)}
    ),
    "probemb.mixup": _mixed(3),
    "probemb.cutmix": _mixed(5, 6, 2),
    "probemb.soft_labels": Row(
        lambda d: {"partner": d.random.permutation(4), "own_share": d.shares(4)}
    ),
    "probemb.sharded": Row(
        lambda d: {**dict(zip("pq", d.gaussians(4, 3), strict=True)), **_logit(d)},
        call=lambda sharded, p, q, **options: sharded(probemb.prolip, _mesh())(p, q, **options),
        but=_OWN_MESH,
    ),
    **_rows(
        "probemb.calibration",
        "aurc selective_risk",
        Row(lambda d: _items(d, "error"), but=_EXPLICIT),
    ),
    "probemb.calibration.r_auroc": Row(lambda d: _items(d, "correct"), but=_EXPLICIT),
    **_rows(
        "probemb.calibration",
        "bin_correlation level_score",
        Row(lambda d: _items(d, "correct"), {"num_bins": 3}, but=_EXPLICIT),
    ),
    "probemb.calibration.equal_bins": Row(lambda d: {"uncertainty": d.floats(12)}, {"num_bins": 3}),
    "probemb.calibration.coverage": Row(
        lambda d: {"central_probability": d.shares(6, 2)}, {"level": 0.5}
    ),
    "probemb.calibration.coverage_error": Row(lambda d: {"central_probability": d.shares(6, 2)}),
    **_rows(
        "probemb.calibration",
        "kendall_tau spearman",
        Row(lambda d: {"uncertainty": d.floats(12), "ambiguity": d.floats(12)}, but=_EXPLICIT),
    ),
    "probemb.calibration.bootstrap_interval": Row(
        lambda d: {"key": d.seed(), "uncertainty": d.floats(12), "error": d.shares(12)},
        {"num_resamples": 20},
        lambda interval, key, uncertainty, error, **options: interval(
            key, probemb.calibration.aurc, uncertainty, error, **options
        ),
        but=_EXPLICIT,
    ),
    **_rows("probemb.calibration", "reliability expected_calibration_error", Row(_predicted)),
    "probemb.retrieval.map_at_r": Row(_ranked, but=_EXPLICIT),
    "probemb.retrieval.r_precision": Row(_ranked),
    "probemb.retrieval.recall_at_k": Row(_ranked, {"k": 2}),
    "probemb.retrieval.pmrp": Row(
        lambda d: {
            "scores": d.floats(4, 6),
            "query_labels": d.binary(4, 3),
            "item_labels": d.binary(6, 3),
        },
        but={"finite": "NaN for a query that has no positive, as it says"},
    ),
    "probemb.retrieval.positives_of": Row(
        lambda d: {"indices": d.random.integers(-1, 5, (4, 2))}, {"num_items": 5}
    ),
    "probemb.retrieval.in_blocks": Row(
        lambda d: {
            **dict(zip("pq", d.gaussians(4, 3), strict=True)),
            "positives": d.binary(4, 4) > 0,
        },
        {
            "statistic": probemb.retrieval.map_at_r,
            "score": _negative_distance,
            "block_size": 2,
        },
        but={**_EXPLICIT, "float32": "a rank among distances that float32 rounds to each other"},
    ),
    "probemb.search.query_vectors": Row(lambda d: {"p": _gaussian(d)}),
    "probemb.search.item_vectors": Row(lambda d: {"q": _gaussian(d)}),
    "probemb.search.top_k": Row(_vectors, {"k": 2}, but=_EXPLICIT),
    "probemb.search.sharded_top_k": Row(_vectors, {"k": 2}, _fixed(mesh=_mesh), but=_OWN_MESH),
    "probemb.search.rerank": Row(
        lambda d: {
            **dict(zip("pq", d.gaussians(4, 3), strict=True)),
            "indices": d.random.integers(0, 4, (4, 2)),
            **_sigmoid(d),
        },
        batches=2,
        but={"float32": "an order of probabilities that float32 rounds to each other"},
    ),
    "probemb.heads.PointHead.__call__": _features(lambda rngs: heads.PointHead(5, 3, rngs=rngs)),
    "probemb.heads.GaussianHead.__call__": _features(
        lambda rngs: heads.GaussianHead(5, 3, rngs=rngs)
    ),
    "probemb.heads.MixtureHead.__call__": _features(
        lambda rngs: heads.MixtureHead(5, 3, num_components=2, rngs=rngs)
    ),
    "probemb.heads.LocalAttentionHead.__call__": _local_features(
        lambda rngs: heads.LocalAttentionHead(5, 6, 3, rngs=rngs)
    ),
    "probemb.heads.UncertaintyTokenHead.__call__": _local_features(
        lambda rngs: heads.UncertaintyTokenHead(5, 6, 3, num_heads=2, rngs=rngs)
    ),
    "probemb.adapters.Adapter.initialize": Row(
        lambda d: {"key": d.seed()}, call=_fixed(self=lambda: _ADAPTER)
    ),
    "probemb.adapters.Adapter.apply": Row(
        lambda d: {"embedding": d.floats(4, 3, decades=0.5), "key": d.seed()},
        call=_adapted,
    ),
    "probemb.adapters.uncertainty": Row(
        lambda d: {"p": d.gaussian(2, 4, 3)},
        but={"float32": "of members that agree, the logarithm of the smallest float"},
    ),
    **_rows(
        "probemb.serving",
        "faiss_index search_faiss",
        Row(lambda d: {"items": d.floats(6, 3)}, call=_by_faiss, but=_HOST),
    ),
    **_rows(
        "probemb.serving",
        "fill_qdrant search_qdrant",
        Row(lambda d: {"items": d.floats(6, 3)}, call=_by_qdrant, but=_HOST),
    ),
}

TABLE = {**LASI_JAX, **PROBEMB}
