"""TID2013 and KADID-10k as TFDS data sets: distorted images and what people thought of them.

    from experiments.data import opinion_scores
    scored = opinion_scores.load("tid2013", Path("tid2013"), Path("results/datasets"))
    references, distorted = scored.images(range(10))

                references  kinds  levels  images   opinion
    tid2013     25          24     5       3,000    0 to 9
    kadid10k    81          25     5       10,125   1 to 5

More is better in both: the column of KADID-10k that is called dmos holds mean opinions, and
falls as the level of distortion rises. Read from the published folders, prepared once as
array_record, without TensorFlow; images are read when they are asked for.

Source: Ponomarenko et al., "Image database TID2013: peculiarities, results and perspectives",
Signal Processing: Image Communication 30, 2015; Lin, Hosu and Saupe, "KADID-10k: a large-scale
artificially distorted IQA database", QoMEX 2019.
"""

import itertools
import math
import re
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple, get_args

import numpy as np
import tensorflow_datasets as tfds

from experiments.data import photographs, prepared

Name = Literal["tid2013", "kadid10k"]
NAMES: tuple[Name, ...] = get_args(Name)
TITLES: dict[Name, str] = {"tid2013": "TID2013", "kadid10k": "KADID-10k"}
LEVELS = 5
KINDS: dict[Name, tuple[str, ...]] = {
    "tid2013": (
        "Additive Gaussian noise",
        "Additive noise in color components",
        "Spatially correlated noise",
        "Masked noise",
        "High frequency noise",
        "Impulse noise",
        "Quantization noise",
        "Gaussian blur",
        "Image denoising",
        "JPEG compression",
        "JPEG2000 compression",
        "JPEG transmission errors",
        "JPEG2000 transmission errors",
        "Non eccentricity pattern noise",
        "Local block-wise distortions of different intensity",
        "Mean shift (intensity shift)",
        "Contrast change",
        "Change of color saturation",
        "Multiplicative Gaussian noise",
        "Comfort noise",
        "Lossy compression of noisy images",
        "Image color quantization with dither",
        "Chromatic aberrations",
        "Sparse sampling and reconstruction",
    ),
    "kadid10k": (
        "Gaussian blur",
        "Lens blur",
        "Motion blur",
        "Color diffusion",
        "Color shift",
        "Color quantization",
        "Color saturation 1",
        "Color saturation 2",
        "JPEG2000",
        "JPEG",
        "White noise",
        "White noise in color component",
        "Impulse noise",
        "Multiplicative noise",
        "Denoise",
        "Brighten",
        "Darken",
        "Mean shift",
        "Jitter",
        "Non-eccentricity patch",
        "Pixelate",
        "Quantization",
        "Color block",
        "High sharpen",
        "Contrast change",
    ),
}
"""The published names; kind k is the k-th, from 1."""


class _Layout(NamedTuple):
    """A published folder: its parts, the lines of its scores, and how many references it has."""

    references: str
    distorted: str
    scores: str
    header: str
    line: re.Pattern[str]
    form: str
    suffix: str
    count: int
    download: str


_LAYOUTS: dict[Name, _Layout] = {
    "tid2013": _Layout(
        "reference_images",
        "distorted_images",
        "mos_with_names.txt",
        "",
        re.compile(r"(?P<opinion>\S+)\s+(?P<image>\S+)"),
        "<opinion> <image>",
        ".bmp",
        25,
        "download TID2013 (tid2013.rar) from the page of Nikolay Ponomarenko and unpack it",
    ),
    "kadid10k": _Layout(
        "images",
        "images",
        "dmos.csv",
        "dist_img,ref_img,dmos,var",
        re.compile(r"(?P<image>[^,]+),[^,]+,(?P<opinion>[^,]+),[^,]*"),
        "<image>,<reference>,<opinion>,<variance>",
        ".png",
        81,
        "download KADID-10k (kadid10k.zip) from the page of the Multimedia Signal Processing "
        "group of the University of Konstanz and unpack it",
    ),
}
_IMAGE = re.compile(r"i(\d\d)_(\d\d)_(\d\d?)(\.bmp|\.png)")


class _Row(NamedTuple):
    """A distorted image: its numbers, from 1, its files, and the mean of opinions."""

    reference: int
    kind: int
    level: int
    reference_file: Path
    distorted_file: Path
    opinion: float


class OpinionScores(tfds.core.GeneratorBasedBuilder):
    """Images with opinions; the configurations are `NAMES`, each reference is a split.

    Args:
      folder: of the published files, see `load`.
      kwargs: as of every TFDS builder; `file_format="array_record"` needs no TensorFlow.
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar = [
        tfds.core.BuilderConfig(name=name, description=f"opinions of {TITLES[name]}")
        for name in NAMES
    ]

    def __init__(self, *, folder: Path, **kwargs):
        super().__init__(**kwargs)
        self._folder = folder

    @property
    def _name(self) -> Name:
        assert self.builder_config is not None
        return next(name for name in NAMES if name == self.builder_config.name)

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(None, None, 3), encoding_format="png")
        number = tfds.features.Scalar(np.int64)
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "reference_image": image,
                    "distorted_image": image,
                    "opinion": tfds.features.Scalar(np.float32),
                    "reference": number,
                    "kind": number,
                    "level": number,
                }
            ),
            disable_shuffling=True,  # nothing is trained with it
        )

    def _split_generators(self, dl_manager):
        del dl_manager
        rows = _rows(self._name, self._folder)
        size = photographs.read(rows[0].reference_file).shape[:2]
        # KADID-10k as one split would need TensorFlow, see `prepared.prepare`.
        return {
            _split(reference): self._generate_examples(list(of_reference), size)
            for reference, of_reference in itertools.groupby(rows, lambda row: row.reference)
        }

    def _generate_examples(self, rows: list[_Row], size: tuple[int, int]):
        reference_image = prepared.png(rows[0].reference_file, size)
        for key, row in enumerate(rows):
            yield (
                key,
                {
                    "reference_image": reference_image,
                    "distorted_image": prepared.png(row.distorted_file, size),
                    "opinion": row.opinion,
                    "reference": row.reference,
                    "kind": row.kind,
                    "level": row.level,
                },
            )


def _split(reference: int) -> str:
    return f"reference_{reference:02d}"


def _rows(name: Name, folder: Path) -> list[_Row]:
    """The scored images in order of reference, kind and level; all files are there."""
    layout = _LAYOUTS[name]
    for part in (layout.references, layout.distorted, layout.scores):
        if not (folder / part).exists():
            raise ValueError(
                f"{name} must be a folder that holds {part}, {folder} is none; {layout.download}"
            )
    references = _by_name(folder / layout.references, layout)
    distorted = _by_name(folder / layout.distorted, layout)
    scores, rows = folder / layout.scores, {}
    for number, line in _lines(scores, layout):
        try:
            image, opinion = _parsed(line, layout)
            numbers = _numbers(image, name)
            if image in rows:
                raise ValueError("an image must have one score")
        except ValueError as error:
            raise ValueError(f"{scores}, line {number}: {error}, got {line!r}") from None
        reference_image = f"i{numbers[0]:02d}{layout.suffix}"
        for files, wanted in ((references, reference_image), (distorted, image)):
            if wanted not in files:
                raise ValueError(f"{scores}, line {number}: {wanted} is missing; {layout.download}")
        rows[image] = _Row(*numbers, references[reference_image], distorted[image], opinion)
    if not rows:
        raise ValueError(f"{scores} must hold scores, it has none; {layout.download}")
    for image, path in distorted.items():
        if _IMAGE.fullmatch(image) and image not in rows:
            raise ValueError(f"{path} has no score in {scores}")
    return sorted(rows.values())


def _by_name(folder: Path, layout: _Layout) -> dict[str, Path]:
    """The images by name in lower case: in TID2013 the case differs between files and scores."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if (name := path.name.lower()).endswith(layout.suffix):
            if name in files:
                raise ValueError(f"{folder} must hold {name} once, it has {files[name].name} too")
            files[name] = path
    return files


def _lines(scores: Path, layout: _Layout) -> list[tuple[int, str]]:
    """The lines that hold a score, with their numbers from 1."""
    try:
        lines = scores.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{scores} must be a file of text: {error}") from None
    if layout.header and [line.strip() for line in lines[:1]] != [layout.header]:
        raise ValueError(f"{scores} must begin with the line {layout.header}")
    first = 1 if layout.header else 0
    return [(k, line) for k, line in enumerate(lines[first:], first + 1) if line.strip()]


def _parsed(line: str, layout: _Layout) -> tuple[str, float]:
    """The image, in lower case, and its opinion."""
    if not (match := layout.line.fullmatch(line.strip())):
        raise ValueError(f"a line must be {layout.form}")
    try:
        opinion = float(match["opinion"])
    except ValueError:
        opinion = math.nan
    if not math.isfinite(opinion):
        raise ValueError("the opinion must be a finite number")
    return match["image"].lower(), opinion


def _numbers(image: str, name: Name) -> tuple[int, int, int]:
    """The reference, kind and level, each from 1, that the name of an image tells."""
    layout, kinds = _LAYOUTS[name], len(KINDS[name])
    match = _IMAGE.fullmatch(image)
    if match and match[4] == layout.suffix:
        reference, kind, level = int(match[1]), int(match[2]), int(match[3])
        if 1 <= reference <= layout.count and 1 <= kind <= kinds and 1 <= level <= LEVELS:
            return reference, kind, level
    raise ValueError(
        f"an image must be named i<reference>_<kind>_<level>{layout.suffix}, "
        f"with at most {layout.count}, {kinds} and {LEVELS}"
    )


class Scored:
    """Distorted images with opinions, read when they are asked for.

    Args:
      examples: of the images.
      rows: the same, without images.

    Attributes:
      opinion: the mean opinion (image), more is better.
      reference: the number (image) of the reference, from 1.
      kind: the number (image) of the kind of distortion, from 1.
      level: of the distortion (image), from 1.
    """

    def __init__(self, examples: prepared.Examples, rows: list[_Row]) -> None:
        self._examples = examples
        self.contents = examples.contents
        self.opinion = np.array([row.opinion for row in rows])
        self.reference = np.array([row.reference for row in rows])
        self.kind = np.array([row.kind for row in rows])
        self.level = np.array([row.level for row in rows])

    def __len__(self) -> int:
        return len(self._examples)

    def images(self, rows: range) -> tuple[np.ndarray, np.ndarray]:
        """References and distorted images, each (row, height, width, 3) uint8.

        Raises:
          ValueError: what was prepared is damaged.
        """
        references, distorted = self._examples.read(rows, "reference_image", "distorted_image")
        return references, distorted


def load(name: Name, folder: Path, datasets: Path) -> Scored:
    """All scored images of a set, prepared if they are not there yet.

    Args:
      name: "tid2013" or "kadid10k".
      folder: of the published files: `reference_images`, `distorted_images` and
        `mos_with_names.txt` of TID2013, `images` and `dmos.csv` of KADID-10k.
      datasets: where TFDS keeps what it prepares, anew for other files.

    Returns:
      The images in order of reference, kind and level.

    Raises:
      ValueError: an unknown name, files missing or damaged, images of different sizes, a score
        without image, an image without score.
    """
    if name not in NAMES:
        raise ValueError(f"name must be one of {NAMES}, got {name!r}")
    rows = _rows(name, folder)
    references = {row.reference: row.reference_file for row in rows}
    files = [row.distorted_file for row in rows] + list(references.values())
    builder = OpinionScores(
        config=name,
        data_dir=prepared.place(datasets, folder, [*files, folder / _LAYOUTS[name].scores]),
        file_format="array_record",
        folder=folder,
    )
    prepared.prepare(builder)
    split = "+".join(_split(reference) for reference in references)
    return Scored(prepared.Examples(builder, split), rows)
