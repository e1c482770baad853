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
# # Bring two arrays, get uncertainty
#
# You have embeddings of images and embeddings of their texts, row by row, of a model that you
# do not want to touch. This notebook puts a distribution around each of them, checks whether the
# distributions are as wide as errors are, and asks whether they know which queries will fail. It
# takes a few minutes on two CPU cores.

# %% [markdown]
# The next cell does nothing where the packages are installed. Elsewhere, as in Colab, it installs
# them from the repository that you opened this notebook from: name its address first.

# %%
REPOSITORY = ""  # what `git clone` takes, such as "https://HOST/OWNER/NAME"

try:
    from probemb import adapters
except ImportError:
    if not REPOSITORY:
        raise RuntimeError(
            "lasi-probemb is not installed: set REPOSITORY, at the top of this cell, to the "
            "address of the git repository that you opened this notebook from"
        ) from None
    print(f"installing lasi-probemb from {REPOSITORY}")
    # %pip install -q "lasi-probemb[experiments] @ git+{REPOSITORY}"
    from probemb import adapters

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.cross_decomposition import CCA
from sklearn.datasets import load_digits

import probemb
from probemb import calibration, retrieval, search

plt.style.use("tableau-colorblind10")

# %% [markdown]
# ## Two arrays
#
# By default they come from scikit-learn's handwritten digits: the upper half of a digit is the
# "image", the lower half its "text", and a canonical correlation analysis of the first 500 pairs
# is the frozen model. Given the upper half of a digit, which lower half belongs to it? Some upper
# halves fit many. In their place, load your own:
#
# ```python
# image_embeddings = np.load("images.npy")  # (pair, dimension)
# text_embeddings = np.load("texts.npy")    # (pair, dimension), row i belongs to row i
# ```

# %%
digits = load_digits().images / 16.0
upper, lower = digits[:, :4].reshape(len(digits), -1), digits[:, 4:].reshape(len(digits), -1)
dimension, of_model = 16, 500
frozen = CCA(dimension, max_iter=2000).fit(upper[:of_model], lower[:of_model])
image_embeddings, text_embeddings = frozen.transform(upper[of_model:], lower[of_model:])


# %%
def unit(vectors):
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


image, text = unit(image_embeddings), unit(text_embeddings)
number, dimension = image.shape
order = np.random.default_rng(0).permutation(number)
train, validation, test = np.split(order, [int(0.6 * number), int(0.7 * number)])
print(f"{len(train)} pairs for training, {len(validation)} for temperatures, {len(test)} for tests")

# %% [markdown]
# ## Three adapters at once
#
# An adapter is a small perceptron. For an embedding it gives a location close to it, and of every
# dimension a scale and a shape. The loss is the likelihood of the partner's embedding (and, with
# little weight, of its own). `vmap` trains three of them, which will be an ensemble.

# %%
adapter = adapters.Adapter(dimension, hidden=(128, 128))
num_steps, batch_size, members = 1000, 128, 3


def loss(parameters, key, z_image, z_text):
    of_image, of_text = jax.random.split(key)
    p = adapter.apply(parameters["image"], z_image, key=of_image)  # the key drops units
    q = adapter.apply(parameters["text"], z_text, key=of_text)
    return probemb.probvlm(p, q, z_image, z_text, cross_modal_weight=100.0)


def initialize(key):
    of_image, of_text = jax.random.split(key)
    return {"image": adapter.initialize(of_image), "text": adapter.initialize(of_text)}


optimizer = optax.adam(optax.cosine_decay_schedule(1e-3, num_steps))
z_image, z_text = jnp.asarray(image[train]), jnp.asarray(text[train])


@jax.jit
def fit(key):
    of_parameters, of_steps = jax.random.split(key)
    parameters = initialize(of_parameters)

    def step(state, key):
        parameters, moments = state
        of_batch, of_dropout = jax.random.split(key)
        chosen = jax.random.randint(of_batch, (batch_size,), 0, len(z_image))
        value, gradient = jax.value_and_grad(loss)(
            parameters, of_dropout, z_image[chosen], z_text[chosen]
        )
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(parameters, updates), moments), value

    keys = jax.random.split(of_steps, num_steps)
    (parameters, _), losses = jax.lax.scan(step, (parameters, optimizer.init(parameters)), keys)
    return parameters, losses


parameters, losses = jax.vmap(fit)(jax.random.split(jax.random.key(0), members))
figure, axis = plt.subplots(figsize=(5, 2.6), layout="constrained")
axis.plot(losses.T / 100.0, linewidth=0.6)
axis.set(xlabel="step", ylabel="loss (nats per dimension)")
plt.show()

# %% [markdown]
# ## Are they as wide as errors are?
#
# One temperature for each side is fitted on the validation pairs. On the test pairs, a 90 %
# interval should then hold 90 % of the partners' coordinates.


# %%
def distributions(side, vectors):
    """Of all members: (member, item, dimension)."""
    return jax.vmap(adapter.apply, (0, None))(parameters[side], jnp.asarray(vectors))


vectors = {"image": image, "text": text}
partner = {"image": text, "text": image}
temperature = {
    side: jax.vmap(probemb.fit_temperature, (0, None))(
        distributions(side, vectors[side][validation]), jnp.asarray(partner[side][validation])
    )
    for side in vectors
}


def tempered(side, vectors):
    p = distributions(side, vectors)
    return jax.vmap(lambda p, t: probemb.tempered(p, temperature=t))(p, temperature[side])


@jax.jit
def central_probabilities(p, target):
    """How much of each distribution lies nearer to its middle than the target."""
    return jax.vmap(lambda of_member: of_member.central_probability(target))(p)


levels = np.linspace(0.02, 0.98, 49)
figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained", sharey=True)
for axis, side in zip(axes, vectors, strict=True):
    target = jnp.asarray(partner[side][test])
    for name, of in (("as trained", distributions), ("tempered", tempered)):
        central = central_probabilities(of(side, vectors[side][test]), target)
        inside = [float(jnp.mean(central <= level)) for level in levels]
        error = float(np.mean(jax.vmap(calibration.coverage_error)(central)))
        axis.plot(levels, inside, label=f"{name}, error {error:.3f}")
    axis.plot([0, 1], [0, 1], "k:")
    axis.set(title=f"intervals around {side}s", xlabel="level", ylabel="share inside")
    axis.legend()

# %% [markdown]
# ## What is it unsure of?
#
# `uncertainty` splits the variance of the ensemble into what each member expects (aleatoric) and
# what they disagree about (epistemic), in logarithms.

# %%
unsure = {side: adapters.uncertainty(tempered(side, vectors[side][test])) for side in vectors}
total = {side: np.asarray(jax.nn.logsumexp(u.log_total, -1)) for side, u in unsure.items()}
for side, u in unsure.items():
    share = jnp.exp(jax.nn.logsumexp(u.log_epistemic, -1) - total[side])
    print(f"{side}s: epistemic share of the variance {float(share.mean()):.1%}")

# %% [markdown]
# The upper halves that the model is most and least sure of (of the default arrays):

# %%
if len(digits) - of_model == number:
    shown = np.argsort(total["image"])[np.r_[0:8, -8:0]]
    figure, axes = plt.subplots(2, 8, figsize=(8, 2.2), layout="constrained")
    for axis, row in zip(axes.ravel(), shown, strict=True):
        picture = digits[of_model:][test[row]].copy()
        picture[4:] = 0.5  # what the model does not see
        axis.imshow(picture, cmap="gray_r", vmin=0, vmax=1)
        axis.axis("off")
    axes[0, 0].set_title("sure", loc="left")
    axes[1, 0].set_title("unsure", loc="left")

# %% [markdown]
# ## Does it know what fails?
#
# Retrieval itself stays what it was: by the frozen embeddings. The R-AUROC says how well a measure
# tells its failures from its successes: 1/2 is chance. The interval is of a bootstrap over queries,
# and the rival costs nothing: how far away the nearest item is.

# %%
scores = jnp.asarray(image[test] @ text[test].T)
matches = jnp.eye(len(test), dtype=bool)
for side, of_side in (("image", scores), ("text", scores.T)):
    right = retrieval.recall_at_k(of_side, matches, k=1).round()
    print(f"{side}s find their partner first in {float(right.mean()):.1%}")
    rivals = {"total variance": jnp.asarray(total[side]), "minus best cosine": -of_side.max(1)}
    for name, values in rivals.items():
        value = float(calibration.r_auroc(values, right))
        low, high = calibration.bootstrap_interval(
            jax.random.key(0), calibration.r_auroc, values, right
        )
        print(f"  R-AUROC of {name}: {value:.3f} [{float(low):.3f}, {float(high):.3f}]")

# %% [markdown]
# ## Search
#
# The closed-form sampled distance of two distributions ranks like an inner product in one
# dimension more, so any index of inner products serves it; `probemb.serving` fills one of Faiss or
# of Qdrant.


# %%
def gaussians(side):
    p = tempered(side, vectors[side][test])
    return probemb.DiagonalGaussian(p.mean.mean(0), unsure[side].log_total)


queries, items = gaussians("text"), gaussians("image")
found = search.top_k(search.query_vectors(queries), search.item_vectors(items), k=5)
partners = jnp.arange(len(test))[:, None]
print(f"recall@1 by distributions {float((found.indices[:, :1] == partners).mean()):.1%}")
print(f"recall@5 by distributions {float((found.indices == partners).any(1).mean()):.1%}")

# %% [markdown]
# Files larger than memory, one-to-many pairs, comparisons of losses and a saved adapter:
# `python -m experiments.probvlm_adapters --images FILE --texts FILE`, from a clone.
