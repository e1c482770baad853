# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "numpy>=2.0.2",
#     "open_clip_torch>=3.0",
#     "pillow>=11.1.0",
#     "sentencepiece>=0.2.0",
#     "torch>=2.6",
#     "tqdm>=4.67.1",
#     "transformers>=4.51",
# ]
# ///
"""Embed a folder of images and a file of captions with a model of open_clip or transformers.

    uv run experiments/extract_embeddings.py --images FOLDER --captions FILE --output FOLDER ...
        ... --library open_clip --model ViT-B-32 --pretrained laion2b_s34b_b79k
        ... --library transformers --model openai/clip-vit-base-patch32

The output folder gets images.safetensors and texts.safetensors, as `embedding_files` describes
them: embeddings of norm 1 in float32, ids, names of files and captions, the model. Images without
a caption are left out. With --augmentations N, both also have embeddings of N random changes of
each: a crop of an image, perhaps mirrored; a caption without some of its words.

A captions file is JSON as COCO has it (images with id and file_name, annotations with image_id and
caption), .csv or .tsv with columns image and caption, or .jsonl with such a pair on each line;
image is the name of a file in the folder.

What is finished is kept in parts: the same command goes on where it was stopped, also with another
batch size.

This script needs nothing of this repository, and the repository needs nothing of what it needs.
"""

import argparse
import csv
import functools
import hashlib
import json
import math
import os
import shutil
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

_AREA = (0.4, 1.0)  # of an image that a random crop keeps
_ASPECT = (3 / 4, 4 / 3)
_DROPPED = 0.2  # the chance of a word to be left out
_TYPES = {"float32": "F32", "int64": "I64", "uint8": "U8"}


class Encoder(Protocol):
    """A model with one space for images and texts."""

    def encode_images(self, images: list[Image.Image]) -> np.ndarray:
        """Embeddings (image, dimension) of images in RGB, of any size."""
        ...

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """Embeddings (text, dimension) of texts."""
        ...


class Captioned(NamedTuple):
    """Images with captions: files and ids (image), captions and the image id (caption) of each."""

    files: tuple[Path, ...]
    ids: np.ndarray
    captions: tuple[str, ...]
    image_ids: np.ndarray


# --- reading ----------------------------------------------------------------------------------


def read_captions(path: Path, folder: Path) -> Captioned:
    """A captions file, with the files of its images in a folder.

    Raises:
      ValueError: the file is missing, damaged or holds something else; a caption is empty or of
        no image; a file of an image is missing.
    """
    readers = {".json": _read_coco, ".csv": _read_table, ".tsv": _read_table, ".jsonl": _read_lines}
    if not path.is_file():
        raise ValueError(f"captions must be a file, {path} is none")
    if path.suffix not in readers:
        raise ValueError(f"captions must be .json, .csv, .tsv or .jsonl, got {path.name}")
    try:
        names, written = readers[path.suffix](path)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, csv.Error) as error:
        raise ValueError(f"captions must be a whole captions file, {path}: {error!r}") from None
    if not written:
        raise ValueError(f"captions must have some, {path} has none")
    for image, caption in written:
        if image not in names:
            raise ValueError(f"captions must be of its images, {path} has one of image {image}")
        if not isinstance(caption, str) or not caption.strip():
            raise ValueError(f"captions must have words, {path} has {caption!r} of image {image}")
    ids = list(dict.fromkeys(image for image, _ in written))
    files = tuple(folder / names[image] for image in ids)
    for file in files:
        if not file.is_file():
            raise ValueError(f"images must hold {file.name}, {folder} does not")
    captions = tuple(caption for _, caption in written)
    image_ids = np.array([image for image, _ in written], np.int64)
    return Captioned(files, np.array(ids, np.int64), captions, image_ids)


_Read = tuple[dict[int, str], list[tuple[int, str]]]
"""Names of files by id, and captions with their image's id."""


def _id(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise ValueError(f"an id must be an integer of 64 bits, got {value!r}")
    return value


def _read_coco(path: Path) -> _Read:
    content = json.loads(path.read_bytes())  # of bytes a mark of their order may come first
    names: dict[int, str] = {}
    for image in content["images"]:
        if names.setdefault(_id(image["id"]), str(image["file_name"])) != image["file_name"]:
            raise ValueError(f"id {image['id']} is that of two images")
    return names, [(_id(a["image_id"]), a["caption"]) for a in content["annotations"]]


def _numbered(pairs: Iterator[tuple[str, str]]) -> _Read:
    """Names of files get the numbers in which they come."""
    ids: dict[str, int] = {}
    written = [(ids.setdefault(str(name), len(ids)), caption) for name, caption in pairs]
    return {number: name for name, number in ids.items()}, written


def _read_table(path: Path) -> _Read:
    delimiter = "\t" if path.suffix == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter=delimiter, strict=True)
        for name in ("image", "caption"):
            if (rows.fieldnames or ()).count(name) != 1:
                raise ValueError(
                    f"it must have one column {name}, its columns are {rows.fieldnames}"
                )
        return _numbered((row["image"], row["caption"]) for row in rows)


def _read_lines(path: Path) -> _Read:
    with path.open(encoding="utf-8-sig") as file:
        rows = (json.loads(line) for line in file if line.strip())
        return _numbered((row["image"], row["caption"]) for row in rows)


def _bits(image: Any, path: Path) -> int:
    """The most bits of a channel in the formats of which Pillow makes 8 of 16 in silence."""
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24]
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (1,)))
    if image.format == "PPM":
        greatest = [x for tile in image.tile for x in tile[3] if isinstance(x, int)]
        return max([255, *greatest]).bit_length()
    return 8


def read_image(path: Path) -> Image.Image:
    """The image in a file, upright and in RGB; a colour profile counts for nothing, as in training.

    Raises:
      ValueError: Pillow cannot read it, or cuts more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            if image.mode in ("I", "F") or ";" in image.mode:
                raise ValueError(f"8 bits a channel are read, its mode is {image.mode}")
            if (bits := _bits(image, path)) > 8:
                raise ValueError(f"8 bits a channel are read, it has {bits}")
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"images must be whole, {path}: {error}") from None


# --- random changes ---------------------------------------------------------------------------


def changed_image(image: Image.Image, random: np.random.Generator) -> Image.Image:
    """A random part of an image, of another size and shape, mirrored half of the time."""
    width, height = image.size
    area = random.uniform(*_AREA) * width * height
    aspect = math.exp(random.uniform(*np.log(_ASPECT)))
    part_width = max(1, min(width, round(math.sqrt(area * aspect))))
    part_height = max(1, min(height, round(math.sqrt(area / aspect))))
    left = int(random.integers(width - part_width + 1))
    top = int(random.integers(height - part_height + 1))
    part = image.crop((left, top, left + part_width, top + part_height))
    return ImageOps.mirror(part) if random.random() < 0.5 else part


def changed_text(text: str, random: np.random.Generator) -> str:
    """A text without some of its words, but not without all."""
    words = text.split()
    kept = random.random(len(words)) >= _DROPPED
    kept[random.integers(len(words))] = True
    return " ".join(word for word, stays in zip(words, kept, strict=True) if stays)


# --- parts ------------------------------------------------------------------------------------


def _replace(path: Path, write: Callable[[Any], object]) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _parts(folder: Path, side: str) -> list[Path]:
    """The parts of a side that are finished, one after another."""
    parts, first = [], 0
    while (path := _part(folder, side, first)).is_file():
        try:
            first += len(np.load(path, mmap_mode="r"))
        except (ValueError, OSError, EOFError):
            break  # it is not whole: from here on everything is made again
        parts.append(path)
    return parts


def _part(folder: Path, side: str, first: int) -> Path:
    return folder / f"{side}-{first:012d}.npy"


def _embedded(folder: Path, side: str) -> int:
    """How many items of a side are embedded."""
    return sum(len(np.load(path, mmap_mode="r")) for path in _parts(folder, side))


def _of_norm_one(side: str, first: int, embeddings: np.ndarray, number: int) -> np.ndarray:
    values = np.asarray(embeddings, np.float64)
    if values.ndim != 2 or len(values) != number:
        raise ValueError(f"embeddings must be ({number}, dimension), got {values.shape}")
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    bad = ~(np.isfinite(norms) & (norms > 0.0))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"embeddings must be finite and not zero, that of {side[:-1]} {first + row} has norm "
            f"{norms[row, 0]}"
        )
    return (values / norms).astype(np.float32)


def _embed(
    side: str,
    items: Sequence[Any],
    load: Callable[[Sequence[Any]], list[Any]],
    encode: Callable[[list[Any]], np.ndarray],
    change: Callable[[Any, np.random.Generator], Any],
    folder: Path,
    *,
    batch_size: int,
    augmentations: int,
    seed: int,
) -> None:
    """Embed what is not embedded yet; a part is (item, 1 + augmentation, dimension)."""
    done = _embedded(folder, side)
    with tqdm(total=len(items), initial=done, desc=side, unit=side[:-1]) as progress:
        for first in range(done, len(items), batch_size):
            batch = load(items[first : first + batch_size])
            # An item's changes are its own: neither stops nor the size of batches matter.
            randoms = [
                np.random.default_rng((seed, side == "texts", first + number))
                for number in range(len(batch))
            ]
            found = [encode(batch)]
            for _ in range(augmentations):
                varied = [change(item, own) for item, own in zip(batch, randoms, strict=True)]
                found.append(encode(varied))
            part = np.stack([_of_norm_one(side, first, one, len(batch)) for one in found], 1)
            _replace(_part(folder, side, first), functools.partial(np.save, arr=part))
            progress.update(len(batch))


# --- writing ----------------------------------------------------------------------------------


def _write_side(
    path: Path, parts: list[Path], ids: np.ndarray, texts: Sequence[str], model: str
) -> None:
    """Join parts to a .safetensors file, in a stream: together they may be larger than memory."""
    number = len(ids)
    _, versions, dimension = np.load(parts[0], mmap_mode="r").shape
    encoded = [text.encode("utf-8") for text in texts]
    ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
    # Eight-byte numbers first, so that every array begins where its numbers may begin.
    arrays: list[tuple[str, str, tuple[int, ...], Iterator[np.ndarray]]] = [
        ("ids", "int64", (number,), iter([ids])),
        ("text_ends", "int64", (number,), iter([ends])),
        ("embeddings", "float32", (number, dimension), (np.load(part)[:, 0] for part in parts)),
    ]
    if versions > 1:
        shape = (number, versions - 1, dimension)
        arrays.append(("augmented", "float32", shape, (np.load(part)[:, 1:] for part in parts)))
    content = np.frombuffer(b"".join(encoded), np.uint8)
    arrays.append(("text_bytes", "uint8", content.shape, iter([content])))
    header: dict[str, Any] = {"__metadata__": {"model": model, "normalized": "true"}}
    end = 0
    for name, dtype, shape, _ in arrays:
        begin, end = end, end + math.prod(shape) * np.dtype(dtype).itemsize
        header[name] = {"dtype": _TYPES[dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode("utf-8")
    text += b" " * (-len(text) % 8)

    def write(file: Any) -> None:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, dtype, _, values in arrays:
            for value in values:
                file.write(np.ascontiguousarray(value, np.dtype(dtype).newbyteorder("<")).data)

    _replace(path, write)


def digest_of(captioned: Captioned) -> str:
    """Which images and captions these are, by names, sizes and times of files."""
    digest = hashlib.sha256()
    for file in captioned.files:
        found = file.stat()
        digest.update(f"{file.name} {found.st_size} {found.st_mtime_ns}\n".encode())
    digest.update(json.dumps(captioned.captions).encode())
    digest.update(captioned.ids.tobytes() + captioned.image_ids.tobytes())
    return digest.hexdigest()


def extract(
    make_encoder: Callable[[], Encoder],
    captioned: Captioned,
    output: Path,
    *,
    model: str,
    batch_size: int = 64,
    augmentations: int = 0,
    seed: int = 0,
) -> None:
    """Embed images and captions, and write a file of each side into a folder.

    Args:
      make_encoder: called when there is something left to embed.
      captioned: the images and captions.
      output: the folder; what an earlier call left unfinished in it is used.
      model: the name that the files get as their model.
      batch_size: items that are embedded at once.
      augmentations: random changes of each item that are embedded too.
      seed: of the random changes.

    Raises:
      ValueError: an option is out of range; the folder is of other inputs; an image cannot be
        read; embeddings are not finite, or zero.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("augmentations", augmentations, 0)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    inputs = {
        "model": model,
        "augmentations": augmentations,
        "seed": seed,
        "images_and_captions": digest_of(captioned),
    }
    _begin(output, inputs)
    parts = output / "parts"
    sides = {
        "images": (captioned.ids, [file.name for file in captioned.files]),
        "texts": (captioned.image_ids, captioned.captions),
    }
    if all((output / f"{side}.safetensors").exists() for side in sides):
        shutil.rmtree(parts, ignore_errors=True)
        print(f"complete: {output}")
        return
    parts.mkdir(exist_ok=True)
    options = {"batch_size": batch_size, "augmentations": augmentations, "seed": seed}
    if any(_embedded(parts, side) < len(ids) for side, (ids, _) in sides.items()):
        encoder = make_encoder()
        with ThreadPoolExecutor() as readers:
            images = (
                captioned.files,
                lambda files: list(readers.map(read_image, files)),
                encoder.encode_images,
                changed_image,
            )
            _embed("images", *images, parts, **options)
        texts = (captioned.captions, list, encoder.encode_texts, changed_text)
        _embed("texts", *texts, parts, **options)
    for side, (ids, words) in sides.items():
        _write_side(output / f"{side}.safetensors", _parts(parts, side), ids, words, model)
    shutil.rmtree(parts)
    print(f"complete: {output} holds images.safetensors and texts.safetensors")


def _begin(output: Path, inputs: dict[str, Any]) -> None:
    """Make the folder, or go on with one that was begun with the same inputs."""
    path = output / "inputs.json"
    if path.is_file():
        try:
            before = dict(json.loads(path.read_text("utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error}") from None
        for name, now in inputs.items():
            if before.get(name) != now:
                raise ValueError(
                    f"output must be a new folder or one of the same inputs, {output} has {name} "
                    f"{before.get(name)!r}, now it is {now!r}"
                )
        return
    if output.exists() and any(file.name != f".{path.name}.partial" for file in output.iterdir()):
        raise ValueError(f"output must be a new folder or one that this script began: {output}")
    output.mkdir(parents=True, exist_ok=True)
    _replace(path, lambda file: file.write(json.dumps(inputs, indent=2).encode("utf-8")))


# --- models -----------------------------------------------------------------------------------


class OpenClip:
    """A model of open_clip.

    Args:
      model: a name that open_clip has, or one that begins with hf-hub: or local-dir:.
      pretrained: the tag of its weights or a file of some; "none" for random ones.
      device: such as "cpu" or "cuda".
      seed: of random weights.
    """

    def __init__(self, model: str, *, pretrained: str | None, device: str, seed: int) -> None:
        import open_clip  # type: ignore
        import torch  # type: ignore

        torch.manual_seed(seed)
        weights = None if pretrained == "none" else pretrained
        self._torch, self._device = torch, device
        try:
            self._model, _, self._preprocess = open_clip.create_model_and_transforms(
                model, pretrained=weights, device=device
            )
        except RuntimeError as error:  # such as an unknown name or tag
            raise ValueError(f"model and pretrained must be open_clip's: {error}") from None
        self._model.eval()
        self._tokenizer = open_clip.get_tokenizer(model)

    def encode_images(self, images: list[Image.Image]) -> np.ndarray:
        """Embeddings (image, dimension), with the preprocessing of the model's evaluation."""
        with self._torch.inference_mode():
            pixels = self._torch.stack([self._preprocess(image) for image in images])
            return self._model.encode_image(pixels.to(self._device)).float().cpu().numpy()

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """Embeddings (text, dimension); what is longer than the model's context is cut."""
        with self._torch.inference_mode():
            tokens = self._tokenizer(texts).to(self._device)
            return self._model.encode_text(tokens).float().cpu().numpy()


class Transformers:
    """A model of transformers that has features of images and of texts, such as CLIP or SigLIP.

    Args:
      model: a name on the hub, or a folder.
      device: such as "cpu" or "cuda".
    """

    def __init__(self, model: str, *, device: str) -> None:
        import torch  # type: ignore
        import transformers  # type: ignore

        self._torch, self._device = torch, device
        self._model = transformers.AutoModel.from_pretrained(model).to(device).eval()
        self._processor = transformers.AutoProcessor.from_pretrained(model)
        for needed in ("get_image_features", "get_text_features"):
            if not hasattr(self._model, needed):
                raise ValueError(f"model must embed images and texts, {model} lacks {needed}")
        self._length = min(
            self._processor.tokenizer.model_max_length,
            self._model.config.text_config.max_position_embeddings,
        )

    def _numbers(self, features: Any) -> np.ndarray:
        # Tensors in version 4, from version 5 on an output that has them as the pooled ones.
        tensor = getattr(features, "pooler_output", features)
        return tensor.float().cpu().numpy()

    def encode_images(self, images: list[Image.Image]) -> np.ndarray:
        """Embeddings (image, dimension), with the model's own preprocessing."""
        with self._torch.inference_mode():
            inputs = self._processor(images=images, return_tensors="pt").to(self._device)
            return self._numbers(self._model.get_image_features(**inputs))

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        """Embeddings (text, dimension); what is longer than the model's context is cut."""
        with self._torch.inference_mode():
            inputs = self._processor(
                text=texts,
                padding="max_length",  # SigLIP was trained so; the others look past padding
                truncation=True,
                max_length=self._length,
                return_tensors="pt",
            ).to(self._device)
            return self._numbers(self._model.get_text_features(**inputs))


def _device() -> str:
    import torch  # type: ignore

    return "cuda" if torch.cuda.is_available() else "cpu"


def _name(model: str | None) -> str | None:
    """What a model is called: of a local one its own name, and which files it has."""
    prefix, _, rest = (model or "").rpartition("local-dir:")
    path = Path(rest)
    if model is None or not path.exists():
        return model
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.name.encode())
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return f"{prefix}{path.resolve().name}-{digest.hexdigest()[:8]}"


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The docstring as it stands, and the defaults."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def main(arguments: Sequence[str] | None = None) -> None:
    """Read options from the command line, embed, and turn an error into one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Help)
    parser.add_argument("--images", type=Path, required=True, help="the folder of the images")
    parser.add_argument("--captions", type=Path, required=True, help="the captions file")
    parser.add_argument("--output", type=Path, required=True, help="the folder for the embeddings")
    parser.add_argument(
        "--library", choices=("open_clip", "transformers"), required=True, help="of the model"
    )
    parser.add_argument("--model", required=True, help="its name in the library")
    parser.add_argument(
        "--pretrained",
        help="tag of open_clip's weights, or none: random weights",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="items at once")
    parser.add_argument("--device", help="cpu, cuda; if not given, cuda where there is one")
    parser.add_argument("--augmentations", type=int, default=0, help="random changes of each item")
    parser.add_argument("--seed", type=int, default=0, help="of the random changes")
    options = parser.parse_args(arguments)
    has_weights = options.model.startswith(("hf-hub:", "local-dir:"))
    if options.library == "open_clip" and not has_weights and options.pretrained is None:
        parser.error(f"--pretrained must be given for {options.model}: random weights are 'none'")
    if options.library == "transformers" and options.pretrained is not None:
        parser.error("--pretrained is an option of open_clip")

    def encoder() -> Encoder:
        device = options.device or _device()
        if options.library == "transformers":
            return Transformers(options.model, device=device)
        chosen = {"pretrained": options.pretrained, "seed": options.seed}
        return OpenClip(options.model, device=device, **chosen)

    names = (options.library, _name(options.model), _name(options.pretrained))
    try:
        extract(
            encoder,
            read_captions(options.captions, options.images),
            options.output,
            model=":".join(filter(None, names)),
            batch_size=options.batch_size,
            augmentations=options.augmentations,
            seed=options.seed,
        )
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")


if __name__ == "__main__":
    main()
