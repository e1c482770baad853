# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A tour of probemb
#
# An embedding is usually a point. Here it is a distribution: a sharp one for an input that
# means one thing, a wide one for an input that could mean several. Two inputs then match
# with a probability, one input can lie within another, and an input can be unsure of itself.
#
# This notebook draws what the functions mean, in one or two dimensions where everything
# can be seen. It takes less than a minute on two CPU cores.

# %% [markdown]
# The next cell does nothing where the packages are installed. Elsewhere, as in Colab, it installs
# them from the repository that you opened this notebook from: name its address first.

# %%
REPOSITORY = ""  # what `git clone` takes, such as "https://HOST/OWNER/NAME"

try:
    import probemb
except ImportError:
    if not REPOSITORY:
        raise RuntimeError(
            "lasi-probemb is not installed: set REPOSITORY, at the top of this cell, to the "
            "address of the git repository that you opened this notebook from"
        ) from None
    print(f"installing lasi-probemb from {REPOSITORY}")
    # %pip install -q "lasi-probemb[experiments] @ git+{REPOSITORY}"
    import probemb

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from matplotlib.patches import Ellipse

from probemb import DiagonalGaussian, GeneralizedGaussian

plt.style.use("tableau-colorblind10")
blue, orange = "C0", "C1"

# %% [markdown]
# ## Two embeddings and their samples
#
# A `DiagonalGaussian` has a mean and the logarithm of its variance. We take a sharp one and
# a wide one, and draw eight samples of each.
#
# Two points match with probability sigmoid(−a · distance + b). At the distance b / a it is
# one half. The two numbers a and b are learned with the embeddings; here we choose them.

# %%
match = {"negative_scale": 3.0, "shift": 6.0}
half_way = match["shift"] / match["negative_scale"]

sharp = DiagonalGaussian(jnp.array([0.0, 0.0]), 2 * jnp.log(jnp.array([0.25, 0.35])))
wide = DiagonalGaussian(jnp.array([2.0, 0.6]), 2 * jnp.log(jnp.array([1.1, 0.8])))
of_sharp, of_wide = jax.random.split(jax.random.key(12))
x, y = sharp.sample(of_sharp, (8,)), wide.sample(of_wide, (8,))

apart = jnp.linalg.norm(x[:, None] - y[None], axis=-1)
of_points = jax.nn.sigmoid(match["shift"] - match["negative_scale"] * apart)
of_samples = probemb.monte_carlo_match_probability(x, y, **match)

# %%
figure, (plane, curve) = plt.subplots(1, 2, figsize=(12, 4.8), layout="constrained")
for name, p, points, colour, marker in [
    ("sharp", sharp, x, blue, "o"),
    ("wide", wide, y, orange, "s"),
]:
    for radius, line in [(1, "-"), (2, "--")]:
        width, height = 2 * radius * p.standard_deviation
        plane.add_patch(Ellipse(p.mean, width, height, fill=False, ec=colour, ls=line, lw=1.5))
    plane.scatter(*points.T, color=colour, marker=marker, s=45, zorder=3, label=name)
shades = plt.get_cmap("cividis")
for i in range(8):
    shade = shades(float(of_points[i, i]))
    plane.plot(*jnp.stack([x[i], y[i]]).T, color=shade, lw=2)
plane.set(aspect="equal", xlabel="dimension 1", ylabel="dimension 2")
plane.set_title("8 of the 64 pairs, ellipses at 1 and 2 σ")
plane.legend(loc="upper left")
figure.colorbar(
    plt.cm.ScalarMappable(cmap=shades), ax=plane, shrink=0.8, label="match probability of the pair"
)

distance = jnp.linspace(0, 5, 200)
curve.plot(
    distance,
    jax.nn.sigmoid(match["shift"] - match["negative_scale"] * distance),
    color="0.6",
    label="two points",
)
curve.scatter(apart, of_points, s=18, color="0.3", zorder=3, label="the 64 pairs of samples")
drawn = curve.scatter(
    jnp.diag(apart),
    jnp.diag(of_points),
    c=jnp.diag(of_points),
    cmap=shades,
    vmin=0,
    vmax=1,
    s=90,
    edgecolors="black",
    zorder=4,
    label="the 8 pairs on the left",
)
curve.axhline(of_samples, color="black", ls="--", label=f"mean of all 64: {of_samples:.3f}")
curve.set(xlabel="distance of the two points", ylabel="match probability")
curve.set_title("p(match) is the mean over all pairs")
curve.legend()
plt.show()

# %% [markdown]
# Some pairs are nearer than b / a and all but surely match; others are far and do not. The
# match probability of the two inputs is the mean over all pairs.
# `monte_carlo_match_probability` takes the samples and gives that mean.

# %%
assert jnp.allclose(of_samples, of_points.mean(), atol=1e-6)
assert of_points.min() < 0.1 and of_points.max() > 0.9

# %% [markdown]
# ## Apart, and wider
#
# `expected_match_probability` gives the same mean without samples, by an integral over the
# distance. We give two isotropic Gaussians in two dimensions one width σ each, and move
# their means apart; then we keep the means and widen both.


# %%
def two_inputs(distance, sigma):
    log_variance = jnp.full(2, 2 * jnp.log(sigma))
    means = jnp.array([[0.0, 0.0], [distance, 0.0]])
    return DiagonalGaussian(means[0], log_variance), DiagonalGaussian(means[1], log_variance)


@jax.jit
@jnp.vectorize
def expected(distance, sigma):
    return probemb.expected_match_probability(*two_inputs(distance, sigma), **match)


@jax.jit
@jnp.vectorize
def of_closed_form(distance, sigma):
    return jax.nn.sigmoid(probemb.closed_form_match_logit(*two_inputs(distance, sigma), **match))


distances = jnp.linspace(0, 6, 121)
sigmas = jnp.geomspace(0.02, 10, 121)
widths, places = [0.02, 0.5, 1.0, 2.0], [0.0, 1.5, 3.0, 4.5]

# %%
figure, (moved, widened) = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained", sharey=True)
for i, (sigma, place) in enumerate(zip(widths, places, strict=True)):
    style = {"color": shades(0.28 * i), "ls": ["-", "--", "-.", ":"][i], "lw": 2.2}
    moved.plot(distances, expected(distances, sigma), label=f"σ = {sigma:g}", **style)
    widened.semilogx(sigmas, expected(place, sigmas), label=f"distance {place:g}", **style)
moved.axvline(half_way, color="0.7", lw=1, zorder=0)
moved.annotate("b / a", (half_way, 1), (4, -4), textcoords="offset points", va="top", color="0.4")
moved.set(xlabel="distance of the means", ylabel="match probability", title="moving apart")
widened.set(xlabel="σ of both", title="widening")
moved.legend()
widened.legend()
plt.show()

# %% [markdown]
# Sharp embeddings match up to the distance b / a and not beyond. The wider they are, the
# less the distance of their means decides: the curve begins lower and falls more slowly.
#
# So widening does two opposite things. It lowers the probability of near pairs, because
# their samples scatter. It raises that of far pairs, because some of their samples meet;
# but only up to a point. In the end all samples are far from each other, and nothing
# matches.

# %%
near, far = expected(0.0, sigmas), expected(3.0, sigmas)
print(f"at distance 0 it falls from {near[0]:.3f} to {near[-1]:.3f}")
print(f"at distance 3 it rises from {far[0]:.3f} to {far.max():.3f}", end=" ")
print(f"at σ = {sigmas[far.argmax()]:.2f}, then falls to {far[-1]:.3f}")
assert (jnp.diff(near) < 1e-6).all()
assert far.max() > 2 * far[0] and far.max() > 2 * far[-1]

# %% [markdown]
# ## Three ways to a number, and a different model
#
# Monte Carlo with few samples is what HIB and PCME train with. Monte Carlo with many
# samples tends to the expectation. The quadrature gives the expectation at once: to rounding
# if the Gaussians are isotropic. If they are not, it puts in their place the isotropic ones
# whose squared distance has the same mean and variance, and that costs a little.
#
# We take two isotropic pairs and one that is not, and compute each in every way. The table
# gives the Monte Carlo mean over many keys with its standard error, and the standard
# deviation of a single estimate from eight samples.

# %%
long, thin = (2 * jnp.log(jnp.array(sigma)) for sigma in ([2.0, 0.1], [0.1, 0.1]))
pairs = {
    "isotropic, near": two_inputs(1.0, 0.5),
    "isotropic, far": two_inputs(3.0, 0.5),
    "anisotropic": (
        DiagonalGaussian(jnp.zeros(2), long),
        DiagonalGaussian(jnp.array([0.0, 1.2]), thin),
    ),
}


def monte_carlo(keys, p, q, num_samples):
    def once(key):
        of_p, of_q = jax.random.split(key)
        x, y = p.sample(of_p, (num_samples,)), q.sample(of_q, (num_samples,))
        return probemb.monte_carlo_match_probability(x, y, **match)

    return jax.lax.map(once, keys, batch_size=256)


few, many = 8, 128
keys = jax.random.split(jax.random.key(0), 1024)
estimates = jax.jit(jax.vmap(monte_carlo, (None, 0, 0, None)), static_argnums=3)
stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *pairs.values())
by_few, by_many = estimates(keys, *stacked, few), estimates(keys, *stacked, many)
quadrature = jax.vmap(lambda pair: probemb.expected_match_probability(*pair, **match))(stacked)
closed_form = jax.nn.sigmoid(probemb.closed_form_match_logit(*stacked, **match))

# %%
mean, error = by_many.mean(1), by_many.std(1) / len(keys) ** 0.5
print(f"{'':17}{'quadrature':>12}{'Monte Carlo':>13}{'± error':>10}{'K = 8: ±':>11}{'PCME++':>9}")
for i, name in enumerate(pairs):
    print(f"{name:17}{quadrature[i]:12.4f}{mean[i]:13.4f}{error[i]:10.4f}", end="")
    print(f"{by_few[i].std():11.4f}{closed_form[i]:9.4f}")

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained", sharey=True)
shown = 60
jitter = jnp.linspace(-0.2, 0.2, shown)
for i, (axis, name) in enumerate(zip(axes, pairs, strict=True)):
    axis.scatter(jitter, by_few[i, :shown], s=14, color=blue, label="Monte Carlo, one key each")
    axis.scatter(1 + jitter, by_many[i, :shown], s=14, color=blue)
    axis.axhline(quadrature[i], color="black", ls="--", label="quadrature")
    axis.axhline(closed_form[i], color=orange, lw=2.5, label="PCME++, same a and b")
    axis.set(title=name, xlim=(-0.5, 1.5), ylim=(-0.04, 1.04))
    axis.set_xticks([0, 1], [f"K = {few}", f"K = {many}"])
axes[0].set_ylabel("match probability")
figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
plt.show()

# %% [markdown]
# The estimates gather around the quadrature, and more tightly with more samples. With
# eight samples one estimate is some way off, though right on average. In the table, the
# isotropic pairs agree within a few standard errors of the Monte Carlo mean. The
# anisotropic pair does not quite: what is left is the cost of putting isotropic Gaussians in
# its place, and it is far less than what one estimate from eight samples is off.

# %%
away = jnp.abs(quadrature - mean)
print(f"anisotropic: off by {away[2]:.4f}, {away[2] / error[2]:.0f} standard errors")
assert (away[:2] < 4 * error[:2]).all()
assert away[2] > 4 * error[2]
assert away[2] < 0.2 * by_few[2].std()

# %% [markdown]
# PCME++ is not a fourth way to that number. `closed_form_match_logit` puts the mean
# *squared* distance of two samples, which has a closed form, into the logit itself. Nothing
# is averaged after the sigmoid. With the same a and b it gives another curve, even for
# points; in training, a and b adapt to it.

# %%
figure, (moved, widened) = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained", sharey=True)
for model, of_model, colour in [("mean", expected, blue), ("PCME++", of_closed_form, orange)]:
    for line, sigma in zip(["-", "--"], [0.02, 0.7], strict=True):
        style = {"color": colour, "ls": line, "lw": 2}
        moved.plot(distances, of_model(distances, sigma), label=f"{model}, σ = {sigma:g}", **style)
    for line, place in zip(["-", "--"], [0.0, 3.0], strict=True):
        style = {"color": colour, "ls": line, "lw": 2}
        label = f"{model}, distance {place:g}"
        widened.semilogx(sigmas, of_model(place, sigmas), label=label, **style)
moved.set(xlabel="distance of the means", ylabel="match probability", title="moving apart")
widened.set(xlabel="σ of both", title="widening")
moved.legend()
widened.legend()
plt.show()

# %% [markdown]
# In PCME++, widening lowers the probability of every pair, near or far: it only adds to the
# distance. The mean over samples raises it for far pairs.

# %%
for place in places:
    assert (jnp.diff(of_closed_form(place, sigmas)) <= 0).all()

# %% [markdown]
# ## How unsure an input is of itself
#
# Two samples of one input need not match. The probability that they do not is η, HIB's
# uncertainty of the input: `self_mismatch` by quadrature, `monte_carlo_self_mismatch` from
# samples. The latter draws two independent sets. With one set for both sides, every
# sample would meet itself, at distance 0.

# %%
few_sigmas = jnp.geomspace(0.05, 10, 24)
of_sigmas = jax.vmap(lambda sigma: two_inputs(0.0, sigma)[0])
of_curve, of_dots = of_sigmas(sigmas), of_sigmas(few_sigmas)
by_quadrature = jax.jit(jax.vmap(lambda p: probemb.self_mismatch(p, **match)))
eta, eta_of_dots = by_quadrature(of_curve), by_quadrature(of_dots)


@jax.jit
@jax.vmap
def with_two_sets(p):
    def once(key):
        return probemb.monte_carlo_self_mismatch(key, p, num_samples=few, **match)

    return jax.vmap(once)(keys)


@jax.jit
@jax.vmap
def with_one_set(p):
    x = jax.vmap(lambda key: p.sample(key, (few,)))(keys)
    return 1 - jax.vmap(lambda x: probemb.monte_carlo_match_probability(x, x, **match))(x)


two_sets, one_set = with_two_sets(of_dots).mean(1), with_one_set(of_dots).mean(1)

# %%
figure, axis = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
axis.semilogx(sigmas, eta, color="black", label="quadrature")
label = f"Monte Carlo, two sets of K = {few}, mean of {len(keys)}"
axis.semilogx(few_sigmas, two_sets, "o", color=blue, label=label)
label = "one set for both sides: too certain"
axis.semilogx(few_sigmas, one_set, "x", color=orange, mew=2, label=label)
axis.set(xlabel="σ", ylabel="self-mismatch η")
axis.legend()
plt.show()

# %% [markdown]
# η grows with σ, from sigmoid(−b) of a point up to 1. One set of samples for both sides gives
# an input that looks surer than it is, and its η never reaches 1: one pair in K is a sample
# with itself.

# %%
of_point = jax.nn.sigmoid(-match["shift"])
print(f"η of a point {of_point:.4f}; at σ = {sigmas[0]:g} it is {eta[0]:.4f}")
assert of_point < eta[0] < 1.2 * of_point
assert (jnp.diff(eta) > -1e-6).all() and eta[-1] > 0.98
assert (jnp.abs(two_sets - eta_of_dots) < 0.01).all()
assert (one_set[few_sigmas > 0.5] < two_sets[few_sigmas > 0.5]).all()
assert one_set.max() < 1 - (1 - of_point) / few + 1e-6

# %% [markdown]
# ## Is one within the other?
#
# `inclusion_test(p, q)` is H(p in q), the logarithm of the integral of p² q. It asks how
# dense q is around the peak of p. ProLIP says that p lies in q where H(p in q) is greater
# than H(q in p). We keep q, with mean 0 and σ 1, and move and widen p, in one dimension. The
# heavy line is where the difference is 0.
#
# `inclusion_test_released` is what ProLIP's published code computes. It receives the
# logarithm of σ² where it wants that of σ, and so counts the leading variances
# twice.

# %%
places = jnp.linspace(-4, 4, 161)
widths = jnp.geomspace(0.2, 5, 161)
place, width = (x[..., None] for x in jnp.meshgrid(places, widths))
p = DiagonalGaussian(place, 2 * jnp.log(width))
q = DiagonalGaussian(jnp.zeros_like(place), jnp.zeros_like(place))

in_q, in_p = probemb.inclusion_test(p, q)[..., 0], probemb.inclusion_test(q, p)[..., 0]
difference = in_q - in_p
released = probemb.inclusion_test_released
difference_released = (released(p, q) - released(q, p))[..., 0]

# %%
figure, axes = plt.subplots(1, 2, figsize=(12, 4.6), layout="constrained", sharey=True)
for axis, name, values in [
    (axes[0], "inclusion_test", difference),
    (axes[1], "inclusion_test_released", difference_released),
]:
    shown = axis.pcolormesh(places, widths, values, cmap="PuOr", vmin=-5, vmax=5)
    levels = axis.contour(places, widths, values, [-2, -1, 1, 2, 4], colors="0.3", linewidths=0.8)
    axis.clabel(levels, fontsize=8)
    axis.contour(places, widths, values, [0], colors="black", linewidths=2.5)
    axis.set(title=name, xlabel="mean of p", yscale="log")
    axis.set_yticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"], minor=False)
    axis.minorticks_off()
axes[0].set_ylabel("σ of p")
figure.colorbar(shown, ax=axes, extend="both", label="H(p in q) − H(q in p)")
plt.show()

# %% [markdown]
# The sign changes at the same place in both: where p is as wide as q. The narrower one is
# said to lie in the wider one wherever it is. Moving p away neither turns the sign nor brings
# the difference back to 0: it only takes it further from 0.
#
# The release's difference is steeper in the widths. It gives the logarithm of the ratio of
# variances the weight one in place of one half, so it differs by −log σ of p. With a
# `mean_weight` near 0, as in its training scripts, the means count for nothing.

# %%
unlike = jnp.abs(widths - 1) > 0.01
for values in [difference, difference_released]:
    assert ((values > 0) == (widths < 1)[:, None])[unlike].all()
    away_from_0 = jnp.abs(values[:, places >= 0])
    assert (jnp.diff(away_from_0, axis=1) > -1e-4).all()
assert jnp.allclose(difference_released - difference, -jnp.log(width[..., 0]), atol=1e-4)

trained = released(p, q, mean_weight=jnp.exp(-20.0)) - released(q, p, mean_weight=jnp.exp(-20.0))
assert jnp.ptp(trained[..., 0], axis=1).max() < 1e-4

# %% [markdown]
# Only the difference behaves so. Each test alone falls as p moves away, and as the square of
# the distance. H(q in p) falls faster when p is the narrow one, hence the difference grows.

# %%
row = int(jnp.argmin(jnp.abs(widths - 0.5)))
figure, (densities, tests) = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
x = jnp.linspace(-4, 6, 400)[:, None]
one_dimensional = [
    ("q, σ = 1", 0.0, 1.0, orange, "-"),
    ("p within q", 0.0, widths[row], blue, "-"),
    ("p moved away", 3.0, widths[row], blue, "--"),
]
for name, mean, sigma, colour, line in one_dimensional:
    one = DiagonalGaussian(jnp.full(1, mean), jnp.full(1, 2 * jnp.log(sigma)))
    densities.plot(x, jnp.exp(jax.vmap(one.log_prob)(x)), color=colour, ls=line, lw=2, label=name)
densities.set(xlabel="x", ylabel="density", title=f"p with σ = {widths[row]:.2f}")
densities.legend()
tests.plot(places, in_q[row], color=blue, lw=2, label="H(p in q)")
tests.plot(places, in_p[row], color=orange, lw=2, ls="--", label="H(q in p)")
tests.plot(places, difference[row], color="black", lw=2, ls=":", label="difference")
tests.set(xlabel="mean of p", ylabel="log integral", title="each test, and their difference")
tests.legend()
plt.show()

# %% [markdown]
# ## Learning the shape of an error
#
# ProbVLM puts a generalized Gaussian around a frozen embedding. Its shape is 1 for Laplace, 2
# for Gaussian, and large for uniform errors. `reconstruction` is the negative log-likelihood
# of the paper. `reconstruction_released` is what the published code minimises, where the
# residual is multiplied by the shape in place of being raised to it.
#
# We draw errors of three kinds, and let Adam find a scale and a shape for each. Every
# shape starts at 1.5.

# %%
kinds = ["Laplace", "Gaussian", "uniform"]
of_laplace, of_gaussian, of_uniform = jax.random.split(jax.random.key(0), 3)
errors = jnp.stack(
    [
        jax.random.laplace(of_laplace, (5000, 1)),
        jax.random.normal(of_gaussian, (5000, 1)),
        jax.random.uniform(of_uniform, (5000, 1), minval=-1.5, maxval=1.5),
    ]
)
losses = {
    "reconstruction": probemb.reconstruction,
    "reconstruction_released": probemb.reconstruction_released,
}


def mean_losses(loss, scales, shapes):
    """The loss of each kind of error, under its own scale and shape."""
    p = GeneralizedGaussian(jnp.zeros((3, 1)), scales[:, None], shapes[:, None])
    return jax.vmap(jax.vmap(loss, (None, 0)))(p, errors).mean(1)


# %%
steps = 600
optimizer = optax.adam(optax.cosine_decay_schedule(0.05, steps))


def fit(loss):
    def total(logarithms):
        return mean_losses(loss, *jnp.exp(logarithms)).sum()

    def step(_, carry):
        logarithms, state = carry
        update, state = optimizer.update(jax.grad(total)(logarithms), state)
        return optax.apply_updates(logarithms, update), state

    start = jnp.log(jnp.array([[1.0, 1.0, 1.0], [1.5, 1.5, 1.5]]))
    logarithms, _ = jax.lax.fori_loop(0, steps, step, (start, optimizer.init(start)))
    return jnp.exp(logarithms)


found = {name: fit(loss) for name, loss in losses.items()}
print(f"{'shape found by':25}" + "".join(f"{kind:>10}" for kind in kinds))
for name, (_, shape) in found.items():
    print(f"{name:25}" + "".join(f"{value:10.3f}" for value in shape))

# %% [markdown]
# To see why, we draw both losses over the shape, at the scale that is best for each shape:
# (shape · mean |error|^shape)^(1 / shape) for the exact one, shape · mean |error| for the
# released one. Every curve is shown above its least value.

# %%
shapes = jnp.geomspace(0.3, 300, 301)
log_sizes = jnp.log(jnp.abs(errors[..., 0]))


def log_moment(shape):
    return jax.nn.logsumexp(shape * log_sizes, axis=1, b=1 / log_sizes.shape[1])


best_scales = {
    "reconstruction": lambda shape: jnp.exp((jnp.log(shape) + log_moment(shape)) / shape),
    "reconstruction_released": lambda shape: shape * jnp.exp(log_moment(1.0)),
}
profiles = {
    name: jax.lax.map(
        lambda shape, name=name: mean_losses(
            losses[name], best_scales[name](shape), jnp.full(3, shape)
        ),
        shapes,
    )
    for name in losses
}

# %%
figure, axes = plt.subplots(1, 2, figsize=(12, 4.4), layout="constrained", sharey=True)
for axis, (name, profile) in zip(axes, profiles.items(), strict=True):
    for i, kind in enumerate(kinds):
        style = {"color": [blue, orange, "0.2"][i], "ls": ["-", "--", ":"][i], "lw": [4, 3, 2][i]}
        axis.semilogx(shapes, profile[:, i] - profile[:, i].min(), label=kind, **style)
        axis.plot(found[name][1][i], 0, "o", color=style["color"], ms=11, mec="white", zorder=5)
    axis.plot([], [], "o", color="0.5", ms=9, label="found by Adam")
    axis.set(title=name, xlabel="shape", ylim=(-0.03, 0.6))
    axis.set_xticks([0.3, 1, 2, 10, 100], ["0.3", "1", "2", "10", "100"])
    axis.minorticks_off()
axes[0].set_ylabel("loss above its least, nats")
axes[0].legend()
axes[1].text(2.5, 0.3, "all three curves, and\nall three dots, on one another")
plt.show()

# %% [markdown]
# The exact loss is least near 1 on Laplace errors and near 2 on Gaussian ones. On uniform
# errors it falls as far as we drew it, ever more slowly, and Adam stops at a large shape. The
# released loss has one curve for all three, and one shape: once the scale is at its best,
# the errors are no longer in it, and log Γ(1 / shape) is what is minimised.

# %%
laplace, gaussian, uniform = found["reconstruction"][1]
assert abs(laplace - 1) < 0.1 and abs(gaussian - 2) < 0.2 and uniform > 20
assert (jnp.diff(profiles["reconstruction"][:, 2]) < 1e-5).all()

fine = jnp.linspace(0.5, 1, 1001)
of_gamma = fine[jax.scipy.special.gammaln(1 / fine).argmin()]
print(f"log Γ(1 / shape) is least at {of_gamma:.3f}")
assert jnp.allclose(found["reconstruction_released"][1], of_gamma, rtol=0.02)
for name, (scale, shape) in found.items():
    at_found = mean_losses(losses[name], scale, shape)
    assert (at_found < profiles[name].min(0) + 0.01).all()
