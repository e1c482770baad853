"""The native kernel's handlers as functions of arrays with an axis of images."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from lasi_jax.native import build
from lasi_jax.wls.neighborhood import neighbor_pattern

# Axes of a batch of images, without channels or with them.
_GREY = 3
_RANKS = (_GREY, _GREY + 1)
_LEAST_DECAY = 1e-6


@functools.lru_cache(maxsize=64)
def neighbor_steps(width: int, channels: int, n: int) -> np.ndarray:
    """Steps (first rows, pixels, channels, n, 3) in rows, pixels and channels to the neighbours.

    Of a row long enough to show both of its ends: the kernel repeats the pixel in the middle.
    All 0 where a neighbour is missing.
    """
    narrow = min(width, 2 * n + 2)
    relative = neighbor_pattern((narrow, channels), n).astype(np.int64)
    rows, row = len(relative), narrow * channels
    own = (rows * row + np.arange(row))[:, None]
    there = np.stack(np.unravel_index(own + relative, (rows + 1, narrow, channels)), -1)
    here = np.stack(np.unravel_index(own, (rows + 1, narrow, channels)), -1)
    steps = np.where((relative == 0)[..., None], 0, there - here)
    return np.ascontiguousarray(steps.reshape(rows, narrow, channels, n, 3), np.int32)


class Kernel:
    """The handlers for images (images, *shape) of one shape and precision."""

    def __init__(self, images: jax.Array, neighborhood_size: int):
        self._shape, self._dtype, self._n = images.shape, images.dtype, neighborhood_size
        self._full = (*images.shape, 1) if images.ndim == _GREY else images.shape

    def __call__(
        self,
        handler: str,
        arrays: Sequence[jax.Array | None],
        results: Sequence[int | None],
        *,
        weights: jax.Array | None = None,
        **options: float,
    ) -> tuple[jax.Array, ...] | None:
        """Call a handler.

        Args:
          handler: its name.
          arrays: (images, *shape) or (images, n, *shape) each, or None for one not given.
          results: planes of each result: N, 0 for an image, None for one not wanted.
          weights: those of the examples, for which the handler is compiled.
          **options: its attributes.

        Returns:
          The results that are wanted, or None where the kernel does not run.
        """
        images, *full = self._full
        # The kernel divides by the decay, which may not leave the precision.
        if images == 0 or options["decay"] < _LEAST_DECAY or len(self._shape) not in _RANKS:
            return None
        *_, width, channels = full
        name = build.target(
            build.Program(handler, self._n, str(self._dtype), channels, weights is not None)
        )
        if name is None:
            return None

        def whole(array):
            if array is None:
                return jnp.zeros(0, self._dtype)
            return array.reshape(*array.shape[: array.ndim - len(self._shape) + 1], *full)

        def type_of(planes):
            shape = (0,) if planes is None else (images, *((planes,) if planes else ()), *full)
            return jax.ShapeDtypeStruct(shape, self._dtype)

        call = jax.ffi.ffi_call(name, [type_of(planes) for planes in results])
        attributes = {key: np.float64(value) for key, value in options.items()}
        steps = neighbor_steps(width, channels, self._n)
        found = call(*map(whole, (*arrays, weights)), steps, **attributes)
        wanted = [a for a, planes in zip(found, results, strict=True) if planes is not None]
        return tuple(a.reshape(*a.shape[: a.ndim - len(full)], *self._shape[1:]) for a in wanted)
