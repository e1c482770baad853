"""Tuning the image side of an encoder on what was chosen, beside what it was trained on."""

import functools
from typing import Any

import grain
import jax
import numpy as np
import optax

from experiments.captions import two_towers
from experiments.captions.batches import Batch
from experiments.captions.digit_encoder import Encoder
from experiments.captions.two_towers import Model
from experiments.runs import training


@functools.cache
def _step(
    model: Model, num_steps: int, learning_rate: float
) -> tuple[optax.GradientTransformation, Any]:
    """The optimizer and the compiled step, the same for all: only the image side is trained."""
    rate = optax.cosine_decay_schedule(learning_rate, num_steps)
    of = {
        "network": {"image": "tuned", "text": "frozen"},
        "log_scale": "frozen",
        "shift": "frozen",
    }
    optimizer = optax.multi_transform(
        {"tuned": optax.adam(rate), "frozen": optax.set_to_zero()}, of
    )
    step = functools.partial(two_towers.train_step, model, optimizer, num_samples=1, weight=0.0)
    return optimizer, jax.jit(step)


def tune(
    encoder: Encoder,
    chosen: grain.MapDataset,
    plain: grain.MapDataset,
    *,
    num_steps: int,
    learning_rate: float,
) -> Encoder:
    """An encoder whose image side has learned from what was chosen.

    Args:
      encoder: the start, which is not changed.
      chosen: halves of batches, shifted images with their captions.
      plain: the other halves.
      num_steps: of the tuning.
      learning_rate: of Adam at the start; it falls to 0 along a cosine.

    Raises:
      ValueError: the loss becomes infinite or NaN.
    """
    optimizer, step = _step(encoder.model, num_steps, learning_rate)
    state = training.begin(jax.random.key(0), encoder.parameters, optimizer)
    for place in range(num_steps):
        one: Any = chosen[place]
        other: Any = plain[place]
        images = np.concatenate([one.images, other.images])
        texts = np.concatenate([one.texts, other.texts])
        alone = np.eye(len(images), dtype=np.float32)  # each image matches its own caption
        state, metrics = step(state, Batch(images, texts, alone))
        if not np.isfinite(metrics["loss"]):
            raise ValueError(f"the loss of a tuning must be finite, got {metrics['loss']}")
    return Encoder(encoder.model, state.parameters)
