"""Weights: arrays by name in a file that the user names.

    .npz           an archive of NumPy, without pickle
    .safetensors   tensors as `safetensors.torch.save_file` writes a state dict

A file is read by name: what is not asked for does not enter memory.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

# Of more faults than these only the number is told.
_TOLD = 3


# Of an open file: the names, and what lies under one.
_Opened = tuple[Iterable[str], Callable[[str], Any]]


@contextlib.contextmanager
def _open_npz(path: Path) -> Iterator[_Opened]:
    # By its path, NumPy leaves a broken archive open.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        yield archive.files, archive.__getitem__


@contextlib.contextmanager
def _open_safetensors(path: Path) -> Iterator[_Opened]:
    try:
        from safetensors import safe_open  # optional: only such a file needs it
    except ImportError as error:
        raise ImportError(
            f"path of a .safetensors file needs the package safetensors, got {str(path)!r}: "
            "pip install safetensors"
        ) from error

    with safe_open(path, framework="numpy") as file:
        yield file.keys(), file.get_tensor


_OPENERS = {".npz": _open_npz, ".safetensors": _open_safetensors}


def _checked(path: str | os.PathLike[str]) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must name a file, got {path!r}")
    path = Path(path)
    if path.suffix in (".pth", ".pt"):
        raise ValueError(
            f"path must end in {' or '.join(_OPENERS)}, got {str(path)!r}, a pickle: convert it by "
            f"safetensors.torch.save_file(model.state_dict(), {path.stem + '.safetensors'!r})"
        )
    if path.suffix not in _OPENERS:
        raise ValueError(f"path must end in {' or '.join(_OPENERS)}, got {str(path)!r}")
    if not path.is_file():
        raise FileNotFoundError(f"path must be a file, {str(path)!r} is none")
    return path


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[_Opened]:
    path = _checked(path)
    try:
        with _OPENERS[path.suffix](path) as opened:
            yield opened
    except (ImportError, MemoryError, PermissionError):
        raise  # none is the file's fault
    except Exception as error:  # a broken file makes its reader raise nearly anything
        raise ValueError(
            f"path must name an intact {path.suffix} file of plain arrays, "
            f"got {str(path)!r}: {error}"
        ) from error


def _check_wanted(wanted: Any) -> tuple[str, ...]:
    if isinstance(wanted, Iterable) and not isinstance(wanted, str):
        found = tuple(wanted)
        if all(isinstance(name, str) for name in found):
            return found
    raise TypeError(f"wanted must be a collection of names, got {wanted!r}")


def _array(name: str, value: Any) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} is no array")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        return value
    with np.errstate(over="ignore"):  # too much for float32 becomes infinity, a fault
        return value.astype(np.float32, copy=False)


def names(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names of the arrays in a file; none of the arrays is read.

    Args:
      path: of an `.npz` archive or a `.safetensors` file.

    Returns:
      The names.

    Raises:
      OSError: no such file, or not to be read.
      ImportError: a `.safetensors` file, but no package `safetensors`.
      ValueError: another extension, or a broken file.

    Source: the formats of NumPy and of safetensors.

    Example:
      >>> names("alexnet.pth")  # doctest: +ELLIPSIS
      Traceback (most recent call last):
      ValueError: ... 'alexnet.pth', a pickle: convert it by safetensors.torch.save_file(...)
    """
    with _opened(path) as (names, _):
        return tuple(names)


def read(
    path: str | os.PathLike[str], *, wanted: Iterable[str] | None = None
) -> dict[str, np.ndarray]:
    """The arrays of a file by name.

    Args:
      path: as in `names`.
      wanted: names of the arrays to read, by default all; those that the file lacks
        are left out.

    Returns:
      The arrays; of floats, whatever their precision, in float32.

    Raises:
      As `names`, ValueError for pickled arrays, and TypeError for a wanted that is no
      collection of names.

    Source: as `names`.

    Example:
      >>> arrays = read("alexnet.safetensors", wanted=("features.0.bias",))  # doctest: +SKIP
    """
    wanted = None if wanted is None else _check_wanted(wanted)
    with _opened(path) as (names, get):
        asked = names if wanted is None else set(names).intersection(wanted)
        return {name: _array(name, get(name)) for name in asked}


def faults(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What arrays have wrong against the shapes wanted: one clause for each.

    Args:
      arrays: by name; those that no shape is given for are passed over.
      shapes: by name.

    Returns:
      Clauses on arrays that are missing, of another shape, not floating, NaN or
      infinite; none if all is well.

    Source: none.

    Example:
      >>> faults({"scale": np.zeros(3)}, {"scale": (2,), "shift": (2,)})
      ['scale has shape (3,) instead of (2,)', 'shift is missing']
    """
    told = []
    for name, shape in shapes.items():
        if name not in arrays:
            told.append(f"{name} is missing")
        elif (array := arrays[name]).shape != shape:
            told.append(f"{name} has shape {array.shape} instead of {shape}")
        elif not jnp.issubdtype(array.dtype, jnp.floating):
            told.append(f"{name} has dtype {array.dtype} instead of a floating one")
        elif not np.isfinite(array).all():
            told.append(f"{name} holds NaN or infinity")
    return told


def load(
    path: str | os.PathLike[str],
    layouts: Mapping[str, Mapping[str, tuple[int, ...]]],
    *,
    content: str,
    ignored: tuple[str, ...] = (),
) -> tuple[str, dict[str, np.ndarray]]:
    """The arrays of a file that has one of several layouts, told apart by their names.

    Args:
      path: as in `names`.
      layouts: by title, the shape of every array by name.
      content: what the file must hold, for the error.
      ignored: how names begin that the file may have besides; they are not read.

    Returns:
      The title of the layout, and its arrays in float32.

    Raises:
      As `read`, and ValueError for arrays that are missing, superfluous, of another
      shape, not floating, NaN or infinite.

    Source: none.

    Example:
      >>> layouts = {"a line": {"slope": (1,), "offset": (1,)}}
      >>> title, arrays = load("line.npz", layouts, content="a line")  # doctest: +SKIP
    """
    have = {name for name in names(path) if not name.startswith(ignored)}
    # The nearest layout, not an equal one: of a damaged file, the error tells what is missing.
    title = min(layouts, key=lambda title: len(have ^ layouts[title].keys()))
    arrays = read(path, wanted=layouts[title])
    told = faults(arrays, layouts[title])
    told += [f"{name} belongs to another network" for name in sorted(have - layouts[title].keys())]
    if told:
        more = f", and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
        raise ValueError(
            f"path must hold {content}, got {str(path)!r}, which is no {title}: "
            f"{', '.join(told[:_TOLD])}{more}"
        )
    return title, arrays
