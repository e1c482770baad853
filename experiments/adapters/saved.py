"""Adapters in files: parameters of every seed, temperatures, and what embeddings they are for.

    saved = saved_adapters.load(Path("report/adapters/probvlm.safetensors"))
    p = saved.distributions("caption", vectors)  # of an ensemble: (seed, caption, dimension)

A .safetensors file; its header says in JSON how the adapter is made, so that nothing else is
needed to use it.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors

import probemb
from experiments.captions.retrieval import SIDES, Side
from experiments.runs import files
from experiments.runs.in_parts import in_parts
from probemb.adapters import Adapter, uncertainty

_AT_ONCE = 512


@dataclasses.dataclass(frozen=True)
class SavedAdapter:
    """An adapter of either side, of one seed or several.

    Attributes:
      adapter: the functions.
      parameters: side -> parameters, seeds on the leading axis.
      temperature: side -> (seed).
      embeddings: what embeddings it is for, as their files say; None where they do not.
    """

    adapter: Adapter
    parameters: dict[Side, Any]
    temperature: dict[Side, np.ndarray]
    embeddings: str | None

    def distributions(self, side: Side, vectors: np.ndarray) -> Any:
        """Calibrated distributions (seed, item, dimension) of unit vectors (item, dimension).

        Raises:
          ValueError: another side, or vectors of another dimension or length.
        """
        if side not in SIDES:
            raise ValueError(f"side must be one of {SIDES}, got {side!r}")
        if vectors.ndim != 2 or vectors.shape[1] != self.adapter.dimension or not len(vectors):
            raise ValueError(
                f"vectors must have shape (item, {self.adapter.dimension}), got {vectors.shape}"
            )
        lengths = np.linalg.norm(vectors, axis=1)
        if not (np.abs(lengths - 1.0) < 0.01).all():
            raise ValueError(
                f"vectors must have norm 1, got norms in {lengths.min():.4g}..{lengths.max():.4g}"
            )
        apply = functools.partial(
            _apply, self.adapter, self.parameters[side], jnp.asarray(self.temperature[side])
        )
        found = in_parts(apply, vectors.astype(np.float32), _AT_ONCE)
        return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), found)

    def gaussians(self, side: Side, vectors: np.ndarray) -> probemb.DiagonalGaussian:
        """The Gaussians (item, dimension) with the mean and total variance of all seeds.

        Raises:
          ValueError: as `distributions`.
        """
        p = self.distributions(side, vectors)
        return probemb.DiagonalGaussian(jnp.mean(p.mean, 0), uncertainty(p).log_total)


@functools.partial(jax.jit, static_argnums=0)
def _apply(adapter: Adapter, parameters: Any, temperature: jax.Array, vectors: jax.Array) -> Any:
    def of_seed(parameters: Any, temperature: jax.Array) -> Any:
        return probemb.tempered(adapter.apply(parameters, vectors), temperature=temperature)

    return jax.vmap(of_seed, out_axes=1)(parameters, temperature)


def _by_place(tree: Any) -> dict[str, Any]:
    """Leaves by their place in the tree, such as image/hidden/0/kernel."""
    leaves = jax.tree.leaves_with_path(tree)
    return {"/".join(str(part.key) for part in path): leaf for path, leaf in leaves}


def save(path: Path, saved: SavedAdapter) -> None:
    """Write an adapter, whole or not at all."""
    header = {
        "adapter": json.dumps(dataclasses.asdict(saved.adapter)),
        "embeddings": json.dumps(saved.embeddings),
    }
    tree = {"parameters": saved.parameters, "temperature": saved.temperature}
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in _by_place(tree).items()}
    files.save_tensors(path, arrays, header)


def load(path: Path) -> SavedAdapter:
    """The adapter of a file.

    Raises:
      ValueError: the file is missing, damaged or holds something else.
    """
    if not path.is_file():
        raise ValueError(f"adapter must be a file, {path} is none")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
        options = json.loads(header["adapter"])
        adapter = Adapter(**{**options, "hidden": tuple(options["hidden"])})
        embeddings = json.loads(header["embeddings"])
        form = _form(adapter, len(arrays["temperature/image"]))
        expected = {name: leaf.shape for name, leaf in _by_place(form).items()}
        found = {name: array.shape for name, array in arrays.items()}
        if expected != found:
            name, shape = sorted(set(expected.items()) ^ set(found.items()))[0]
            raise ValueError(f"{name} {shape} does not fit the adapter of its header")
        for name, array in arrays.items():
            if array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite float32")
            if name.startswith("temperature") and not (array > 0.0).all():
                raise ValueError(f"{name} must be positive, got {array.min():g}")
    except Exception as error:  # a broken file makes its reader raise nearly anything
        raise ValueError(f"adapter must be a whole file of an adapter, {path}: {error}") from None
    ordered = [arrays[name] for name in _by_place(form)]
    tree = jax.tree.unflatten(jax.tree.structure(form), ordered)
    return SavedAdapter(adapter, tree["parameters"], tree["temperature"], embeddings)


def _form(adapter: Adapter, seeds: int) -> dict[str, Any]:
    """The shapes of what a file holds."""
    keys = jax.ShapeDtypeStruct((seeds,), jax.random.key(0).dtype)
    return {
        "parameters": dict.fromkeys(SIDES, jax.eval_shape(jax.vmap(adapter.initialize), keys)),
        "temperature": dict.fromkeys(SIDES, jax.ShapeDtypeStruct((seeds,), jnp.float32)),
    }
