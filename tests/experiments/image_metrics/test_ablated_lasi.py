import functools
import itertools

import chex
import jax
import numpy as np
import pytest

import lasi_jax
from experiments.image_metrics import ablated_lasi
from experiments.image_metrics.ablated_lasi import Variant, measure
from lasi_jax.wls.neighborhood import neighbor_index


def images_of(shape, seed=0, number=2):
    return np.random.default_rng(seed).uniform(0.05, 0.95, (number, *shape))


def away(here, there):
    return sum(abs(a - b) for a, b in zip(here, there, strict=True))


def nearest(positions, t, variant):
    """From the definition: a mirror image follows the element that it mirrors."""

    def rule(j):
        step = tuple(b - a for a, b in zip(positions[t], positions[j], strict=True))
        mirrored = tuple(-component for component in step)
        return away(positions[t], positions[j]), min(step, mirrored), j > t

    earlier = variant.neighborhood == "causal"
    others = [j for j in range(len(positions)) if (j < t if earlier else j != t)]
    return sorted(others, key=rule)[: variant.neighborhood_size], others


def brute_force(image, variant):
    """Embedding, loss and residual of every element; the loss is NaN without examples."""
    remedy = variant.remedy
    values = 2.0 * image.reshape(-1) - 1.0 + {"shift by 1": 1.0, "shift by 2": 2.0}.get(remedy, 0.0)
    positions = list(itertools.product(*map(range, image.shape)))
    phi = np.zeros((len(values), variant.neighborhood_size))
    for t in range(len(values)):
        index, _ = nearest(positions, t, variant)
        phi[t, : len(index)] = values[index]
    if remedy == "intercept":
        phi = np.concatenate([phi, np.ones_like(phi[:, :1])], 1)
    theta, loss, residual = np.zeros_like(phi), np.full_like(values, np.nan), values.copy()
    prior = np.full(phi.shape[1], (remedy == "prior") / phi.shape[1])
    for t in range(len(values)):
        _, others = nearest(positions, t, variant)
        weights = np.array([variant.decay ** away(positions[t], positions[j]) for j in others])
        seen, wanted, own, value = phi[others], values[others], phi[t], values[t]
        if remedy == "local means" and others:
            mean_phi, mean_x = (np.average(v, 0, weights) for v in (seen, wanted))
            seen, wanted, own, value = (
                seen - mean_phi,
                wanted - mean_x,
                own - mean_phi,
                value - mean_x,
            )
        system = (seen.T * weights) @ seen + variant.ridge * np.eye(phi.shape[1])
        theta[t] = np.linalg.solve(system, (seen.T * weights) @ wanted + variant.ridge * prior)
        residual[t] = value - own @ theta[t]
        if others:
            loss[t] = (weights * (wanted - seen @ theta[t]) ** 2).sum() / weights.sum()
    shifted = theta + (0.03 if remedy == "offset 0.03" else 1e-6)
    directions = shifted / np.linalg.norm(shifted, axis=1, keepdims=True)
    return directions, loss, residual


@pytest.mark.parametrize(
    ("shape", "variant"),
    [
        ((6, 7, 3), Variant(10, "causal")),
        ((6, 7, 3), Variant(10, "two-sided")),
        ((6, 7, 3), Variant(3, "causal", decay=0.5, ridge=0.05)),
        ((6, 7, 3), Variant(3, "two-sided", decay=0.5, ridge=0.05)),
        ((7, 6), Variant(24, "two-sided")),
        *(((5, 4, 2), Variant(3, remedy=remedy)) for remedy in ablated_lasi.REMEDIES[1:]),
    ],
    ids=str,
)
def test_equals_brute_force(shape, variant):
    pair = images_of(shape)
    directions, losses, residuals = zip(*(brute_force(i, variant) for i in pair), strict=True)
    found = measure(*pair, variant=variant)
    expected = np.linalg.norm(directions[0] - directions[1], axis=1).mean()
    np.testing.assert_allclose(found.distance, expected, atol=1e-10)
    np.testing.assert_allclose(found.loss, np.nanmean(losses, axis=1), atol=1e-10)
    np.testing.assert_allclose(found.prediction_error, np.square(residuals).mean(1), atol=1e-10)


@pytest.mark.parametrize(("remedy", "prior"), [("none", 0.0), ("prior", 1.0)])
def test_the_causal_variant_is_lasi(remedy, prior):
    x, y = images_of((6, 7, 3))
    options = {"neighborhood_size": 3, "decay": 0.7, "ridge": 0.2}
    found = measure(x, y, variant=Variant(remedy=remedy, **options))
    expected = lasi_jax.distance(x, y, prior=prior, **options)
    np.testing.assert_allclose(found.distance, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "element", "expected"),
    [
        ((5, 5), 12, [7, 17, 11, 13, 2, 22, 6, 18]),  # up, down, left, right; two up, two down, ...
        ((5, 5), 0, [5, 1, 10, 6, 2, 15, 11, 7]),  # farther elements fill in at a corner
        ((1, 9), 0, [1, 2, 3, 4, 5, 6, 7, 8]),
    ],
    ids=str,
)
def test_nearest_on_both_sides(shape, element, expected):
    assert ablated_lasi.two_sided_index(shape, 8)[element].tolist() == expected


@pytest.mark.parametrize("shape", [(6, 5, 3), (4, 3, 2, 2), (2, 2)], ids=str)
def test_neighbours_are_the_nearest_and_none_is_missing(shape):
    n = min(24, int(np.prod(shape)) - 1)
    positions = list(itertools.product(*map(range, shape)))
    variant = Variant(n, "two-sided")
    expected = [nearest(positions, t, variant)[0] for t in range(len(positions))]
    assert ablated_lasi.two_sided_index(shape, n).tolist() == expected


def test_both_sides_are_the_causal_neighbours_and_their_mirror_images():
    shape = (9, 9, 3)
    middle = int(np.ravel_multi_index((4, 4, 1), shape))
    causal = neighbor_index(shape, 10)[middle] - middle
    both = ablated_lasi.two_sided_index(shape, 20)[middle] - middle
    assert both.tolist() == np.stack([causal, -causal], 1).reshape(-1).tolist()


@pytest.mark.parametrize("neighborhood", ablated_lasi.NEIGHBORHOODS)
def test_symmetry_and_negatives(neighborhood):
    variant = Variant(3, neighborhood)
    x, y = images_of((6, 7, 3))
    found = measure(x, y, variant=variant)
    swapped = measure(y, x, variant=variant)
    chex.assert_trees_all_close(swapped, jax.tree.map(lambda a: a[::-1] if a.ndim else a, found))
    chex.assert_trees_all_close(measure(1 - x, 1 - y, variant=variant), found, atol=1e-10)
    assert float(measure(x, x, variant=variant).distance) < 1e-14 < float(found.distance)


def test_a_two_sided_neighbourhood_predicts_what_lies_between():
    rows, columns = np.indices((10, 10))
    x = 0.5 + 0.3 * np.sin(rows + 0.7 * columns)
    causal, two_sided = (
        measure(x, x, variant=Variant(2, kind, ridge=1e-6)) for kind in ablated_lasi.NEIGHBORHOODS
    )
    assert (two_sided.prediction_error < 0.5 * causal.prediction_error).all()


@pytest.mark.parametrize("neighborhood", ablated_lasi.NEIGHBORHOODS)
def test_single_precision_and_bytes(neighborhood):
    variant = Variant(2, neighborhood, ridge=0.01)
    smooth = 128 + 100 * np.sin(np.indices((2, 10, 10)).sum(0) / [[[5.0]], [[3.0]]])
    pair = smooth.astype(np.uint8)
    x, y = (pair / 255.0).astype(np.float32)
    single = measure(x, y, variant=variant)
    assert {leaf.dtype for leaf in single} == {np.dtype(np.float32)}
    exact = measure(*pair, variant=variant)
    chex.assert_trees_all_close(single, jax.tree.map(np.float32, exact), rtol=1e-3)


def test_jit_and_vmap_agree_with_eager():
    variant = Variant(3, "two-sided")
    x, y = images_of((6, 7, 3), number=4).reshape(2, 2, 6, 7, 3)
    batched = jax.jit(jax.vmap(functools.partial(measure, variant=variant)))(x, y)
    eager = [measure(*pair, variant=variant) for pair in zip(x, y, strict=True)]
    chex.assert_trees_all_close(batched, jax.tree.map(lambda *a: np.stack(a), *eager), atol=1e-12)


def test_variants_of_one_size_share_a_compilation(monkeypatch):
    traced, moments = [], ablated_lasi._moments
    monkeypatch.setattr(ablated_lasi, "_moments", lambda *a: traced.append(1) or moments(*a))
    pair = images_of((4, 7, 3))
    for variant in (Variant(2), Variant(2, "two-sided"), Variant(2, decay=0.5, ridge=0.1)):
        measure(*pair, variant=variant)
    assert len(traced) == 1


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (Variant(2, "acausal"), "neighborhood must be one of causal, two-sided, got 'acausal'"),
        (Variant(0), "neighborhood_size must be at least 1 .* got 0"),
        (Variant(12, "two-sided"), "neighborhood_size must be .* less than .* got 12"),
        (Variant(2, decay=0.0), "decay must be .* got 0"),
        (Variant(2, ridge=0.0), "ridge must be .* got 0"),
        (Variant(2, remedy="hope"), "remedy must be one of none, prior, .* got 'hope'"),
    ],
)
def test_bad_variants(variant, message):
    with pytest.raises(ValueError, match=message):
        measure(*images_of((3, 4)), variant=variant)


def test_bad_images():
    x, y = images_of((4, 4, 3))
    with pytest.raises(ValueError, match="one shape"):
        measure(x, y[:3], variant=Variant(2))
    with pytest.raises(ValueError, match="y must lie in value_range"):
        measure(x, 255.0 * y, variant=Variant(2))
    with pytest.raises(TypeError, match="neighborhood_size must be an integer"):
        measure(x, y, variant=Variant(2.5))  # pyright: ignore[reportArgumentType]
