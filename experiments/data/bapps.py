"""BAPPS as TFDS data sets: patches that people compared, read from the published folder.

    from experiments.data import bapps
    subsets = bapps.load(Path("dataset"), Path("results/datasets"), kind="2afc")
    reference, first, second = subsets["cnn"].images(range(10))

"2afc" asks which of two distorted patches is closer to a reference, "jnd" whether two
patches are the same. All are 64 x 64 pixels in RGB. Prepared once as array_record,
without TensorFlow; patches are read when they are asked for.

Source: Zhang, Isola, Efros, Shechtman and Wang, "The unreasonable effectiveness of deep
features as a perceptual metric", CVPR 2018; the layout is that of its repository,
richzhang/PerceptualSimilarity.
"""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from experiments.data import prepared

Kind = Literal["2afc", "jnd"]
SIDE = 64
"""Of the patches, in pixels."""
DOWNLOAD = (
    "download the validation set of BAPPS (1.3 GB) "
    "with scripts/get_dataset_valonly.sh of richzhang/PerceptualSimilarity"
)


class _Layout(NamedTuple):
    """Subsets, and in the folder of each the folders of images and the one of judgements."""

    subsets: tuple[str, ...]
    images: tuple[str, ...]
    judgement: str


_LAYOUTS: dict[Kind, _Layout] = {
    "2afc": _Layout(
        ("traditional", "cnn", "superres", "deblur", "color", "frameinterp"),
        ("ref", "p0", "p1"),
        "judge",
    ),
    "jnd": _Layout(("traditional", "cnn"), ("p0", "p1"), "same"),
}


class Bapps(tfds.core.GeneratorBasedBuilder):
    """BAPPS; the configurations are "2afc" and "jnd", the splits are the subsets.

    Args:
      folder: of the published files, see `load`.
      kwargs: as of every TFDS builder; `file_format="array_record"` needs no TensorFlow.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=kind, description=f"judgements of BAPPS, {kind}")
        for kind in _LAYOUTS
    ]

    def __init__(self, *, folder: Path, **kwargs):
        super().__init__(**kwargs)
        self._folder = folder

    @property
    def _kind(self) -> Kind:
        assert self.builder_config is not None
        return next(kind for kind in _LAYOUTS if kind == self.builder_config.name)

    def _info(self) -> tfds.core.DatasetInfo:
        layout = _LAYOUTS[self._kind]
        image = tfds.features.Image(shape=(SIDE, SIDE, 3), encoding_format="png")
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    **dict.fromkeys(layout.images, image),
                    layout.judgement: tfds.features.Scalar(np.float32),
                }
            ),
            disable_shuffling=True,  # nothing is trained with it
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        return {
            subset: self._generate_examples(place)
            for subset, place in _found(self._folder, self._kind).items()
        }

    def _generate_examples(self, place: Path):
        layout = _LAYOUTS[self._kind]
        for key, name in enumerate(_names(place, layout)):
            patches = {
                part: prepared.png(place / part / f"{name}.png", (SIDE, SIDE))
                for part in layout.images
            }
            judgement = _judgement(place / layout.judgement / f"{name}.npy")
            yield key, {**patches, layout.judgement: judgement}


def _found(folder: Path, kind: Kind) -> dict[str, Path]:
    """The folders of the subsets that are there, in a folder or the folder `dataset` in it."""
    for root in (folder, folder / "dataset"):
        places = {subset: root / kind / "val" / subset for subset in _LAYOUTS[kind].subsets}
        if found := {subset: place for subset, place in places.items() if place.is_dir()}:
            return found
    return {}


def _names(place: Path, layout: _Layout) -> list[str]:
    """The names, without suffix, that each folder of a subset must hold."""
    parts = {**dict.fromkeys(layout.images, ".png"), layout.judgement: ".npy"}
    rule = f"{', '.join(parts)} must hold files of the same names"
    names = {}
    for part, suffix in parts.items():
        if not (place / part).is_dir():
            raise ValueError(f"{place / part} is missing: {rule}; {DOWNLOAD}")
        names[part] = {path.stem for path in (place / part).glob(f"[!.]*{suffix}")}
    wanted = sorted(set.union(*names.values()))
    if not wanted:
        raise ValueError(f"{place} must hold images, it has none; {DOWNLOAD}")
    for name in wanted:
        for part, suffix in parts.items():
            if name not in names[part]:
                raise ValueError(f"{place / part / name}{suffix} is missing: {rule}")
    return wanted


def _judgement(path: Path) -> float:
    try:
        with path.open("rb") as file:
            values = np.lib.format.read_array(file, allow_pickle=False)
        values = values.astype(np.float64)
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path} must be a NumPy file of one number: {error}") from None
    if values.size != 1 or not 0.0 <= values.item() <= 1.0:
        raise ValueError(f"{path} must hold one number from 0 to 1, it holds {values.tolist()}")
    return values.item()


class Subset:
    """Patches and judgements of a subset, read when they are asked for.

    Args:
      examples: of the subset.
      kind: of the judgements.
    """

    def __init__(self, examples: prepared.Examples, kind: Kind) -> None:
        self._examples = examples
        self.contents = examples.contents
        self._layout = _LAYOUTS[kind]

    def __len__(self) -> int:
        return len(self._examples)

    def images(self, rows: range) -> tuple[np.ndarray, ...]:
        """Patches, each (row, 64, 64, 3) uint8: reference, p0 and p1 of "2afc", p0 and p1 of "jnd".

        Raises:
          ValueError: what was prepared is damaged.
        """
        return self._examples.read(rows, *self._layout.images)

    @functools.cached_property
    def judgements(self) -> np.ndarray:
        """The share of judges (row) who took p1 for closer ("2afc"), or saw no difference ("jnd").

        Raises:
          ValueError: what was prepared is damaged.
        """
        return self._examples.column(self._layout.judgement).astype(np.float64)


def present(folder: Path) -> tuple[Kind, ...]:
    """The kinds of judgement of which a folder has at least one subset.

    Raises:
      ValueError: there is none.
    """
    kinds: tuple[Kind, ...] = tuple(kind for kind in _LAYOUTS if _found(folder, kind))
    if not kinds:
        raise ValueError(_none(folder, *_LAYOUTS))
    return kinds


def _none(folder: Path, *kinds: Kind) -> str:
    looked_for = "; ".join(
        f"{kind}/val/{subset}" for kind in kinds for subset in _LAYOUTS[kind].subsets
    )
    return f"bapps must be a folder that holds one of {looked_for}, {folder} is none; {DOWNLOAD}"


def load(folder: Path, datasets: Path, *, kind: Kind) -> dict[str, Subset]:
    """The subsets of one kind of judgement, prepared if they are not there yet.

    Args:
      folder: that holds `2afc` and `jnd`, or holds `dataset` that does.
      datasets: where TFDS keeps what it prepares, anew for other files.
      kind: "2afc" or "jnd".

    Returns:
      The subsets of which there is a folder, in the paper's order.

    Raises:
      ValueError: an unknown kind, no subset, files missing or damaged, a patch that is not
        64 x 64, a judgement out of range.
    """
    if kind not in _LAYOUTS:
        raise ValueError(f"kind must be one of {tuple(_LAYOUTS)}, got {kind!r}")
    if not (found := _found(folder, kind)):
        raise ValueError(_none(folder, kind))
    root = next(iter(found.values())).parent
    builder = Bapps(
        config=kind,
        data_dir=prepared.place(datasets, root, _files(found, kind)),
        file_format="array_record",
        folder=folder,
    )
    prepared.prepare(builder)
    return {subset: Subset(prepared.Examples(builder, subset), kind) for subset in found}


def _files(found: dict[str, Path], kind: Kind) -> Iterator[Path]:
    layout = _LAYOUTS[kind]
    for place in found.values():
        for name in _names(place, layout):
            yield from (place / part / f"{name}.png" for part in layout.images)
            yield place / layout.judgement / f"{name}.npy"
