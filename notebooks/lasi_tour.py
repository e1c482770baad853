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
# # A tour of LASI
#
# LASI says how different two images look. It has no trained weights. Each element
# of an image is predicted from its nearest earlier elements by a small weighted least
# squares. The coefficients of that prediction describe the element. The distance of two
# images is the mean distance of their normalized coefficients, from 0 to 2.
#
# This notebook compares images, looks at the map behind the number, and uses the
# distance as a loss. It takes about two minutes on two CPU cores.

# %%
try:
    import lasi_jax
except ImportError:
    # %pip install -q "lasi-probemb[experiments]"
    import lasi_jax

# %%
import dm_pix
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
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
maps = {name: lasi_jax.distance_map(photograph, image).mean(-1) for name, image in changed.items()}
top = max(float(m.max()) for m in maps.values())

figure, axes = plt.subplots(2, 4, figsize=(11, 5.2), layout="constrained")
for axis, (name, image) in zip(axes[0], {"photograph": photograph, **changed}.items(), strict=True):
    axis.imshow(image)
    axis.set_title(name)
for axis, m in zip(axes[1, 1:], maps.values(), strict=True):
    shown = axis.imshow(m, cmap="magma", vmin=0, vmax=top)
    axis.set_title(f"mean {m.mean():.3f}")
for axis in axes.flat:
    axis.axis("off")
figure.colorbar(shown, ax=axes[1, 1:], label="LASI distance")
plt.show()

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
# We start at uniform noise and follow the gradient towards the photograph, 64 × 64 pixels
# in float32. Adam takes the steps, on a cosine schedule. After each step the pixels are
# clipped to [0, 1]. A sigmoid in place of the clipping arrived no lower.
#
# The noise lies in [0.5, 1], and that is no accident. LASI knows a photograph from its
# negative almost not at all: turning the values in [-1, 1] around leaves every coefficient
# as it was.

# %%
print(f"photograph and its negative: {lasi_jax.distance(small, 1 - small):.6f}")
print(f"photograph, a little darker: {lasi_jax.distance(small, 0.9 * small):.6f}")

# %% [markdown]
# Noise around middle grey would take one sign here and the other there. Noise on one side
# of it starts with one sign everywhere.

# %%
steps = 400
optimizer = optax.adam(optax.cosine_decay_schedule(0.03, steps))


@jax.jit
def step(image, state):
    loss, slope = jax.value_and_grad(lasi_jax.distance)(image, small)
    update, state = optimizer.update(slope, state)
    return jnp.clip(optax.apply_updates(image, update), 0, 1), state, loss


def descend(image):
    state, curve, snapshots = optimizer.init(image), [], {}
    for i in range(steps + 1):
        following, state, loss = step(image, state)
        curve.append(float(loss))
        if i in (0, 10, 50, 150, steps):
            snapshots[i] = image
            print(f"step {i:3d}  LASI {loss:.4f}  SSIM {dm_pix.ssim(image, small):.3f}")
        image = following
    return curve, snapshots


noise = jax.random.uniform(jax.random.key(0), small.shape)
curve, snapshots = descend(0.5 + 0.5 * noise)

# %%
figure, axes = plt.subplots(1, 6, figsize=(13, 2.7), layout="constrained")
for axis, (i, image) in zip(axes, snapshots.items(), strict=False):
    axis.imshow(image)
    axis.set_title(f"step {i}: {curve[i]:.3f}")
axes[-1].imshow(small)
axes[-1].set_title("photograph")
for axis in axes:
    axis.axis("off")
plt.show()

# %% [markdown]
# The distance arrives, the photograph does not: what arrives is a drawing of it. Edges
# and their directions are there. Brightness and colour of whole regions are not, for
# LASI is almost blind to them: they hardly change how neighbours predict an element.
# As a loss on its own it leaves them where the start put them.
#
# So let the start bring them. The second descent begins at the photograph under noise.

# %%
noisy_start = jnp.clip(small + 0.6 * (noise - 0.5), 0, 1)
curve_noisy, snapshots_noisy = descend(noisy_start)

# %%
figure, axes = plt.subplots(1, 6, figsize=(13, 2.7), layout="constrained")
for axis, (i, image) in zip(axes, snapshots_noisy.items(), strict=False):
    axis.imshow(image)
    axis.set_title(f"step {i}: {curve_noisy[i]:.3f}")
axes[-1].imshow(small)
axes[-1].set_title("photograph")
for axis in axes:
    axis.axis("off")

figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
axis.semilogy(curve, label="from noise")
axis.semilogy(curve_noisy, label="from the photograph under noise")
axis.set_xlabel("step")
axis.set_ylabel("LASI")
axis.legend()
plt.show()

# %%
for name, values in {"noise": curve, "the photograph under noise": curve_noisy}.items():
    print(
        f"from {name}: {values[0]:.3f} to {values[-1]:.3f}, {values[0] / values[-1]:.0f} times less"
    )
assert curve[-1] < 0.1 * curve[0]
assert curve_noisy[-1] < 0.1 * curve_noisy[0]
