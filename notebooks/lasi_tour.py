# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A tour of LASI
#
# LASI says how different two images look. It has no trained weights. Each element
# of an image is predicted from its nearest earlier elements by a small weighted least
# squares. The coefficients of that prediction describe the element. The distance of two
# images is the mean distance of their normalized coefficients, from 0 to 2. Two things to
# know first: it does not tell an image from its negative, and in even areas of middle grey
# it counts noise that nobody sees; both are shown below.
#
# This notebook compares images, looks at the map behind the number, and uses the
# distance as a loss. It takes two to three minutes on two CPU cores.

# %% [markdown]
# The next cell does nothing where the packages are installed. Elsewhere, as in Colab, it installs
# them from the repository that you opened this notebook from: name its address first.

# %%
REPOSITORY = ""  # what `git clone` takes, such as "https://HOST/OWNER/NAME"

try:
    import lasi_jax
except ImportError:
    if not REPOSITORY:
        raise RuntimeError(
            "lasi-probemb is not installed: set REPOSITORY, at the top of this cell, to the "
            "address of the git repository that you opened this notebook from"
        ) from None
    print(f"installing lasi-probemb from {REPOSITORY}")
    # %pip install -q "lasi-probemb[experiments] @ git+{REPOSITORY}"
    import lasi_jax

# %%
import functools

import dm_pix
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from skimage import data, filters, transform, util

# %% [markdown]
# ## Compare two images
#
# The photograph is a crop of 128 × 128 pixels. We blur it, add noise to it, and cut it
# out one pixel further left. The images are uint8 and go straight in.

# %%
astronaut = data.astronaut()
photograph = astronaut[60:188, 160:288]
changed = {
    "blurred": util.img_as_ubyte(filters.gaussian(photograph, 1.5, channel_axis=-1)),
    "noisy": util.img_as_ubyte(util.random_noise(photograph, var=0.06**2, rng=0)),
    "shifted": astronaut[60:188, 159:287],
}

print(f"{'':10}{'LASI':>8}{'SSIM':>8}")
for name, image in {"itself": photograph, **changed}.items():
    lasi = lasi_jax.distance(photograph, image)
    ssim = dm_pix.ssim(jnp.asarray(photograph / 255.0), jnp.asarray(image / 255.0))
    print(f"{name:10}{lasi:8.3f}{ssim:8.3f}")

# %% [markdown]
# LASI is a distance: 0 means the same. SSIM is a similarity: 1 means the same. They
# need not rank the changes alike.

# %% [markdown]
# ## Look at the map
#
# `distance_map` gives the distance at every element, that is at every pixel and channel.
# Averaged over the channel it is a picture of where the difference sits.

# %%
figure, axes = plt.subplots(2, 4, figsize=(11, 5.2), layout="constrained")
for column, (name, image) in zip(
    axes.T, {"photograph": photograph, **changed}.items(), strict=True
):
    where = lasi_jax.distance_map(photograph, image).mean(-1)
    column[0].imshow(image)
    column[0].set_title(name)
    shown = column[1].imshow(where, cmap="magma", vmin=0, vmax=0.8)
    column[1].set_title(f"mean {where.mean():.3f}")
for axis in axes.flat:
    axis.axis("off")
figure.colorbar(shown, ax=axes, shrink=0.6, extend="max", label="LASI distance")
plt.show()

# %% [markdown]
# ## Middle grey
#
# LASI reads values in [-1, 1]. Where an area is even and near 0, that is near grey 127.5,
# its regression has nothing to learn from but noise, and noise decides which way the
# coefficients point. We add one level of noise, which nobody sees, to flat patches.
#
# `prior=1.0` lets the ridge pull the coefficients to the mean of the neighbours, where the
# released definition pulls them to 0. Even areas then mean the same at every grey.

# %%
noise = np.random.default_rng(0).integers(-1, 2, (32, 32, 3))
released = jax.jit(lasi_jax.distance)
with_prior = jax.jit(functools.partial(lasi_jax.distance, prior=1.0))
print("grey   LASI   with prior=1.0   SSIM")
for grey in (64, 127, 128, 140):
    flat = np.full(noise.shape, grey, np.uint8)
    noisy = (flat + noise).astype(np.uint8)
    scores = released(flat, noisy), with_prior(flat, noisy)
    ssim = dm_pix.ssim(jnp.asarray(flat / 255.0), jnp.asarray(noisy / 255.0))
    print(f"{grey:4d} {scores[0]:6.3f} {scores[1]:16.3f} {ssim:6.3f}")

# %% [markdown]
# On photographs, which are seldom even at middle grey, the two hardly differ.

# %%
print(f"{'':10}{'LASI':>8}{'prior':>8}")
for name, image in changed.items():
    remedied = lasi_jax.distance(photograph, image, prior=1.0)
    print(f"{name:10}{lasi_jax.distance(photograph, image):8.3f}{remedied:8.3f}")

# %% [markdown]
# ## It composes with JAX
#
# `jit` and `vmap` work on it as on any other function. A batch is a `vmap`.

# %%
batch = jnp.stack(list(changed.values()))
to_photograph = jax.jit(jax.vmap(lasi_jax.distance, in_axes=(0, None)))
print(to_photograph(batch, photograph))

# %% [markdown]
# A norm has no derivative at 0, and many losses answer NaN there. Here the gradient of
# two identical images is exactly zero, and finite.

# %%
small = jnp.asarray(transform.resize(photograph, (64, 64), anti_aliasing=True), jnp.float32)
gradient = jax.grad(lasi_jax.distance)(small, small)
print("all finite:", bool(jnp.isfinite(gradient).all()), "| largest:", float(abs(gradient).max()))

# %% [markdown]
# ## LASI as a loss
#
# We follow the gradient towards the photograph, 64 × 64 pixels in float32. Adam takes the
# steps, on a cosine schedule. After each step the pixels are clipped to [0, 1]; a sigmoid
# in place of the clipping ended higher.
#
# There are two starts: uniform noise alone, and the photograph under noise. The noise alone
# lies in [0.5, 1], on one side of middle grey, because LASI cannot tell a photograph from
# its negative: turning the sign of all values in [-1, 1] leaves every coefficient as it
# was. Noise around middle grey would favour neither.

# %%
print(f"photograph and its negative:    {lasi_jax.distance(small, 1 - small):.6f}")
print(f"photograph made a tenth darker: {lasi_jax.distance(small, 0.9 * small):.6f}")

# %%
noise = jax.random.uniform(jax.random.key(0), small.shape)
starts = {
    "noise": 0.5 + 0.5 * noise,
    "photograph under noise": jnp.clip(small + 0.6 * (noise - 0.5), 0, 1),
}
steps = 400
optimizer = optax.adam(optax.cosine_decay_schedule(0.03, steps))


@jax.jit
def step(image, state):
    loss, slope = jax.value_and_grad(lasi_jax.distance)(image, small)
    update, state = optimizer.update(slope, state)
    return jnp.clip(optax.apply_updates(image, update), 0, 1), state, loss


curves, snapshots = {}, {}
for name, image in starts.items():
    print("from", name)
    state = optimizer.init(image)
    curves[name], snapshots[name] = [], {}
    for i in range(steps + 1):
        following, state, loss = step(image, state)
        curves[name].append(float(loss))
        if i in (0, 10, 50, 150, steps):
            snapshots[name][i] = image
            print(f"  step {i:3d}  LASI {loss:.4f}  SSIM {dm_pix.ssim(image, small):.3f}")
        image = following

# %%
figure, axes = plt.subplots(2, 6, figsize=(13, 5), layout="constrained")
for row, name in zip(axes, starts, strict=True):
    for axis, (i, image) in zip(row[:-1], snapshots[name].items(), strict=True):
        axis.imshow(image)
        axis.set_title(f"step {i}: {curves[name][i]:.3f}")
    row[-1].imshow(small)
    row[-1].set_title("photograph")
for axis in axes.flat:
    axis.axis("off")

figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
for name, curve in curves.items():
    axis.semilogy(curve, label=f"from {name}")
axis.set_xlabel("step")
axis.set_ylabel("LASI")
axis.legend()
plt.show()

# %% [markdown]
# The distance arrives from both starts. The photograph does not arrive from noise alone:
# what arrives is a coloured drawing of it. The edges are there, the brightness and colour
# of whole regions are not, and yet LASI counts the drawing nearer to the photograph than
# the photograph made a tenth darker. It compares how neighbours predict an element, not
# the values themselves. As the only loss it leaves the tones where the start put them;
# from the photograph under noise they are there already, and the noise recedes.

# %%
for name, curve in curves.items():
    start, final = curve[0], curve[-1]
    print(f"from {name}: {start:.3f} to {final:.3f}, {start / final:.0f} times less")
    assert final < 0.1 * start
