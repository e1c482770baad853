import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from probemb import cutmix, mixup, soft_labels

PARTNER = np.array([2, 0, 1, 3])
IMAGE = np.random.default_rng(0).uniform(size=(4, 12, 10, 3))
LEVELS = np.broadcast_to(np.arange(4.0)[:, None, None, None], IMAGE.shape)
compiled_labels = jax.jit(soft_labels)
compiled = {function: jax.jit(function) for function in (mixup, cutmix)}


def test_labels_are_where_the_texts_are():
    expected = [[0.7, 0.0, 0.3, 0.0], [0.3, 0.7, 0.0, 0.0], [0.0, 0.3, 0.7, 0.0], [0, 0, 0, 1]]
    np.testing.assert_allclose(compiled_labels(PARTNER, 0.7), expected, rtol=1e-12)


def test_every_image_may_have_a_share_of_its_own():
    share = np.array([0.0, 0.25, 0.5, 1.0])
    labels = np.asarray(compiled_labels(PARTNER, share))
    np.testing.assert_allclose(labels[np.arange(4), np.arange(4)], [0.0, 0.25, 0.5, 1.0])
    np.testing.assert_allclose(labels[np.arange(3), PARTNER[:3]], [1.0, 0.75, 0.5])
    np.testing.assert_allclose(labels.sum(1), np.ones(4))
    assert np.count_nonzero(labels) == 6


def test_labels_have_the_precision_of_the_shares_that_jax_can_hold():
    for dtype in (np.float32, np.float64):
        assert compiled_labels(PARTNER, np.full(4, 0.5, dtype)).dtype == dtype
    with jax.enable_x64(False):
        assert soft_labels([1, 0], np.float64(0.5)).dtype == np.float32


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0, 1, True])
def test_its_own_partner_is_labelled_as_itself(share):
    np.testing.assert_allclose(soft_labels(np.arange(3), share), np.eye(3), rtol=1e-12)


def test_partners_may_repeat_and_be_of_any_integer_type():
    expected = [[0.6, 0.4, 0.0], [0.0, 1.0, 0.0], [0.0, 0.4, 0.6]]
    for partner in ([1, 1, 1], np.ones(3, np.uint8), jnp.ones(3, jnp.int16)):
        np.testing.assert_allclose(soft_labels(partner, 0.6), expected, rtol=1e-12)


def test_mixup_is_the_weighted_sum():
    mixed, share = compiled[mixup](jax.random.key(0), IMAGE, PARTNER)
    assert mixed.shape == IMAGE.shape and share.shape == () and 0.0 < share < 1.0
    own = float(share)
    np.testing.assert_allclose(mixed, own * IMAGE + (1 - own) * IMAGE[PARTNER], rtol=1e-12)
    np.testing.assert_allclose(mixed[3], IMAGE[3], rtol=1e-12)


@jax.jit
def shares_and_slopes(seed, concentration):
    """Of 4000 keys, and their derivatives in the concentration."""

    def own_share(key, concentration):
        return mixup(key, np.zeros(1), np.array([0]), concentration=concentration)[1]

    keys = jax.random.split(jax.random.key(seed), 4000)
    return jax.vmap(jax.value_and_grad(own_share, 1), (0, None))(keys, concentration)


def test_shares_of_large_concentrations_are_those_of_beta_and_end():
    for concentration in (9e3, 2e4):  # on either side of where a Gaussian takes over
        share, slope = map(np.asarray, shares_and_slopes(3, concentration))
        expected = scipy.stats.beta(concentration, concentration)
        assert scipy.stats.kstest(share, expected.cdf).pvalue > 0.01
        # A spread of 1 / sqrt(8 a) falls with a by half of its relative change; of two gamma
        # variates, whose quotient JAX has, nearly so.
        np.testing.assert_allclose(slope, -0.5 * (share - 0.5) / concentration, rtol=0.03)
    share, slope = shares_and_slopes(3, 1e30)
    np.testing.assert_allclose(share, 0.5, rtol=1e-12)
    assert np.isfinite(slope).all()


def test_mixup_takes_arrays_of_any_rank():
    images = IMAGE[:, 0, 0, 0], IMAGE[:, 0, 0], IMAGE[..., None]

    @jax.jit
    def mixed_images(key):
        return [mixup(key, image, PARTNER) for image in images]

    for image, (mixed, share) in zip(images, mixed_images(jax.random.key(1)), strict=True):
        np.testing.assert_allclose(mixed[0], share * image[0] + (1.0 - share) * image[2])


def test_cutmix_pastes_one_rectangle_of_the_partner():
    for seed in range(20):
        mixed, share = compiled[cutmix](jax.random.key(seed), LEVELS, PARTNER)
        mixed = np.asarray(mixed)
        pasted = mixed[0] == 2.0
        assert np.all(pasted | (mixed[0] == 0.0))
        assert np.all(pasted == pasted[:, :, :1])
        rows, columns = pasted[:, :, 0].any(1), pasted[:, :, 0].any(0)
        np.testing.assert_array_equal(pasted[:, :, 0], rows[:, None] & columns[None])
        for line in (rows, columns):
            assert np.abs(np.diff(np.pad(line.astype(int), 1))).sum() in (0, 2)
        np.testing.assert_allclose(share, 1.0 - pasted.mean(), atol=1e-12)
        np.testing.assert_array_equal(mixed[1], np.where(pasted, 0.0, 1.0))
        np.testing.assert_array_equal(mixed[3], LEVELS[3])


def test_cutmix_replaces_the_share_of_the_beta_distribution_up_to_the_border():
    keys = jax.random.split(jax.random.key(3), 2000)
    image = np.zeros((1, 64, 64, 1))
    shares = jax.jit(jax.vmap(lambda key: cutmix(key, image, np.array([0]))[1]))(keys)
    # Of a side s of the length, around a uniform centre, s - s^2 / 4 stays inside on average;
    # s^2 is uniform, so the mean pasted area is the integral of (sqrt(t) - t / 4)^2.
    expected = 1.0 - (1 / 2 - 0.5 / 2.5 + 1 / 48)
    error = np.std(shares) / np.sqrt(len(shares))
    # Rounding to whole pixels makes sides up to two pixels of 64 shorter.
    assert expected - 5.0 * error < np.mean(shares) < expected + 5.0 * error + 2 / 64


def test_a_high_concentration_mixes_half_and_a_low_one_hardly():
    even, _ = shares_and_slopes(0, 1e6)
    assert np.all(np.abs(np.asarray(even) - 0.5) < 0.01)
    shares = np.asarray(shares_and_slopes(1, 0.01)[0])
    assert np.mean(np.minimum(shares, 1.0 - shares)) < 0.05
    assert 0.35 < np.mean(shares) < 0.65


@pytest.mark.parametrize("function", [mixup, cutmix])
def test_the_same_key_gives_the_same_result(function):
    first, again, other = (compiled[function](jax.random.key(k), IMAGE, PARTNER) for k in (5, 5, 6))
    chex.assert_trees_all_equal(first, again)
    assert not np.array_equal(first[0], other[0])


@pytest.mark.slow
@pytest.mark.parametrize("function", [mixup, cutmix])
def test_jit_eager_and_vmap_agree(function):
    keys = jax.random.split(jax.random.key(7), 3)
    one_by_one = [function(key, IMAGE, PARTNER) for key in keys]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)
    mapped = jax.vmap(function, (0, None, None))(keys, IMAGE, PARTNER)
    chex.assert_trees_all_close(mapped, stacked, atol=1e-12)
    chex.assert_trees_all_close(
        jax.jit(function)(keys[0], IMAGE, PARTNER), one_by_one[0], atol=1e-12
    )


def test_labels_under_jit_and_vmap():
    share = np.array([0.2, 0.9])
    expected = [one * np.eye(4) + (1.0 - one) * np.eye(4)[PARTNER] for one in share]
    mapped = jax.jit(jax.vmap(soft_labels, (None, 0)))(PARTNER, share)
    np.testing.assert_allclose(mapped, expected, atol=1e-12)
    np.testing.assert_allclose(compiled_labels(PARTNER, 0.2), expected[0], atol=1e-7)


@pytest.mark.parametrize("function", [mixup, cutmix])
def test_the_gradient_in_the_image_sums_to_the_uses_of_a_pixel(function):
    key = jax.random.key(8)

    @jax.jit
    @jax.grad
    def gradient(image, weights):
        return jnp.sum(weights[:, None, None, None] * function(key, image, PARTNER)[0])

    np.testing.assert_allclose(gradient(IMAGE, np.ones(4)), np.ones(IMAGE.shape), rtol=1e-12)
    _, share = compiled[function](key, IMAGE, PARTNER)
    per_image = np.mean(gradient(IMAGE, np.eye(4)[0]), axis=(1, 2, 3))
    np.testing.assert_allclose(per_image, [share, 0.0, 1.0 - share, 0.0], atol=1e-12)


@pytest.mark.parametrize("function", [mixup, cutmix])
def test_float32_stays_float32(function):
    mixed, share = jax.eval_shape(function, jax.random.key(9), np.float32(IMAGE), PARTNER)
    assert mixed.dtype == share.dtype == jnp.float32


KEY = jax.random.key(0)
WITH_NAN = IMAGE.copy()
WITH_NAN[1, 2, 3, 0] = np.nan


def test_partners_of_the_other_byte_order():
    partner = np.array([1, 1, 1]).astype(np.dtype(np.int64).newbyteorder())
    expected = [[0.75, 0.25, 0.0], [0.0, 1.0, 0.0], [0.0, 0.25, 0.75]]
    np.testing.assert_allclose(soft_labels(partner, 0.75), expected)


BAD_LABELS = {
    "float_partner": (np.zeros(3), 0.5, TypeError, "partner must be an array of integers"),
    "no_partner": (None, 0.5, TypeError, "partner must be an array, got NoneType"),
    "scalar_partner": (np.array(1), 0.5, ValueError, r"partner must have shape .* got \(\)"),
    "too_high": ([0, 3, 1], 0.5, ValueError, r"partner must hold places in 0..2, got 3"),
    "negative": (np.array([0, -1]), 0.5, ValueError, r"partner must hold places in 0..1, got -1"),
    "empty": (
        np.zeros(0, int),
        0.5,
        ValueError,
        r"partner must have shape \(batch,\), got \(0,\)",
    ),
    "more_than_one": ([1, 0], 1.5, ValueError, r"own_share must lie in 0..1, got values from 1.5"),
    "less_than_zero": ([1, 0], [0.5, -0.1], ValueError, "own_share must lie in 0..1"),
    "nan_share": ([1, 0], float("nan"), ValueError, "own_share must lie in 0..1, got .* nan"),
    "shares_of_another_shape": (
        [1, 0],
        [0.5, 0.5, 0.5],
        ValueError,
        r"own_share must be a scalar or have shape \(2,\), got \(3,\)",
    ),
    "text_share": ([1, 0], "half", TypeError, "own_share must be boolean, integer or floating"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_bad_labels(case):
    partner, share, error, message = BAD_LABELS[case]
    with pytest.raises(error, match=message):
        soft_labels(partner, share)


BAD = {
    "float_partner": (
        (KEY, IMAGE, PARTNER.astype(float)),
        TypeError,
        "partner must be an array of integers",
    ),
    "partner_of_another_batch": (
        (KEY, IMAGE, np.array([1, 0])),
        ValueError,
        r"partner must have shape \(4,\), got \(2,\)",
    ),
    "partner_out_of_range": (
        (KEY, IMAGE, np.array([0, 1, 2, 4])),
        ValueError,
        r"partner must hold places in 0..3, got 4",
    ),
    "integer_image": (
        (KEY, np.zeros((4, 6, 8, 3), np.uint8), PARTNER),
        TypeError,
        "image must be floating point, got dtype uint8",
    ),
    "no_batch": ((KEY, np.array(0.5), PARTNER), ValueError, "image must have a batch axis"),
    "nan_image": (
        (KEY, WITH_NAN, PARTNER),
        ValueError,
        r"image must be finite, got nan at index \(1, 2, 3, 0\)",
    ),
    "no_key": ((0, IMAGE, PARTNER), TypeError, "key must be a single key"),
}


@pytest.mark.parametrize("function", [mixup, cutmix])
@pytest.mark.parametrize("case", BAD)
def test_bad_input(function, case):
    given, error, message = BAD[case]
    with pytest.raises(error, match=message):
        function(*given)


@pytest.mark.parametrize("function", [mixup, cutmix])
@pytest.mark.parametrize("concentration", [0.0, -1.0])
def test_the_concentration_is_positive(function, concentration):
    with pytest.raises(ValueError, match=f"concentration must be positive, got {concentration:g}"):
        function(KEY, IMAGE, PARTNER, concentration=concentration)


@pytest.mark.parametrize("shape", [(4, 6, 8), (4, 6, 8, 3, 1)], ids=str)
def test_cutmix_takes_images_only(shape):
    with pytest.raises(ValueError, match=r"image must have shape \(batch height width channel\)"):
        cutmix(KEY, np.zeros(shape), PARTNER)
