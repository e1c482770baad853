import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from experiments import extract_embeddings
from experiments.data import embedding_files

SCRIPT = Path(extract_embeddings.__file__)


class TinyEncoder:
    """Random projections of a thumbnail and of the counts of letters."""

    def __init__(self, *, stop_after=None):
        random = np.random.default_rng(0)
        self.of_image, self.of_text = random.normal(size=(48, 8)), random.normal(size=(128, 8))
        self.left, self.batches = stop_after, []

    def count(self, batch):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left = None if self.left is None else self.left - 1
        self.batches.append(len(batch))

    def encode_images(self, images):
        self.count(images)
        assert all(image.mode == "RGB" for image in images)
        pixels = [np.asarray(image.resize((4, 4))).ravel() for image in images]
        return np.stack(pixels) / 255.0 @ self.of_image

    def encode_texts(self, texts):
        self.count(texts)
        counts = [
            np.bincount(np.frombuffer(text.encode(), np.uint8), minlength=128) for text in texts
        ]
        return np.stack(counts) @ self.of_text


# --- captions files and images ------------------------------------------------------------------


@pytest.fixture
def photographs(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number, shape in enumerate([(40, 60, 3), (30, 30, 4), (9, 50, 3), (64, 48), (50, 50, 3)]):
        Image.fromarray(random.integers(0, 256, shape, np.uint8)).save(folder / f"{number}.png")
    return folder


COCO = {
    "images": [{"id": 10 * number, "file_name": f"{number}.png"} for number in (4, 0, 1, 2, 3)],
    "annotations": [
        {"image_id": 30, "caption": "a grey cat"},
        {"image_id": 0, "caption": "a dog, a cat"},
        {"image_id": 30, "caption": "a cat on a mat"},
        {"image_id": 10, "caption": "the dog"},
        {"image_id": 40, "caption": "two dogs"},
    ],
}
ROWS = [(f"{a['image_id'] // 10}.png", a["caption"]) for a in COCO["annotations"]]


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def coco(folder, **changes):
    return write(folder / "captions.json", COCO | changes)


def test_coco(photographs, tmp_path):
    (tmp_path / "captions.json").write_text(json.dumps(COCO), "utf-8-sig")
    extract_embeddings.read_captions(tmp_path / "captions.json", photographs)
    found = extract_embeddings.read_captions(coco(tmp_path), photographs)
    assert [file.name for file in found.files] == ["3.png", "0.png", "1.png", "4.png"]
    assert found.ids.tolist() == [30, 0, 10, 40]
    assert found.image_ids.tolist() == [30, 0, 30, 10, 40]
    assert found.captions[1] == "a dog, a cat"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("some.csv", "image,caption\n" + "".join(f'{name},"{text}"\n' for name, text in ROWS)),
        (
            "some.tsv",
            "\ufeffcaption\timage\n" + "".join(f"{text}\t{name}\n" for name, text in ROWS),
        ),
        (
            "some.jsonl",
            "\n".join(json.dumps({"image": name, "caption": text}) for name, text in ROWS) + "\n\n",
        ),
    ],
)
def test_tables_and_lines(photographs, tmp_path, name, content):
    found = extract_embeddings.read_captions(write(tmp_path / name, content), photographs)
    assert [file.name for file in found.files] == ["3.png", "0.png", "1.png", "4.png"]
    assert found.ids.tolist() == [0, 1, 2, 3] and found.image_ids.tolist() == [0, 1, 0, 2, 3]
    assert found.captions == tuple(text for _, text in ROWS)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("some.txt", "", "captions must be .json, .csv, .tsv or .jsonl, got some.txt"),
        ("some.json", "{", "captions must be a whole captions file"),
        ("some.json", "[]", "captions must be a whole captions file"),
        ("some.json", {"images": []}, "some.json: KeyError('annotations')"),
        ("some.json", COCO | {"annotations": []}, "captions must have some"),
        ("some.json", COCO | {"images": COCO["images"][1:]}, "some.json has one of image 40"),
        (
            "some.json",
            COCO | {"images": [*COCO["images"], {"id": 0, "file_name": "2.png"}]},
            "id 0 is that of two images",
        ),
        (
            "some.json",
            COCO | {"annotations": [{"image_id": 0, "caption": " "}]},
            "captions must have words, ",
        ),
        (
            "some.json",
            COCO | {"annotations": [{"image_id": 0, "caption": 3}]},
            "some.json has 3 of image 0",
        ),
        *(
            ("some.json", COCO | {"images": [{"id": wrong, "file_name": "0.png"}]}, str(wrong))
            for wrong in (1.9, True, "1", 2**63)
        ),
        (
            "some.json",
            COCO | {"annotations": [{"image_id": 10.0, "caption": "a dog"}]},
            "an id must be an integer of 64 bits, got 10.0",
        ),
        ("some.csv", "file,caption\n0.png,a dog\n", "it must have one column image"),
        ("some.csv", "image,caption,caption\n0.png,a,b\n", "it must have one column caption"),
        ("some.csv", "image,caption\n0.png\n", "some.csv has None of image 0"),
        ("some.csv", "image,caption\n", "captions must have some"),
        ("some.jsonl", '{"image": "0.png"}\n', "KeyError('caption')"),
        ("some.jsonl", "3\n", "captions must be a whole captions file"),
        ("some.csv", "image,caption\n9.png,a dog\n", "images must hold 9.png"),
    ],
)
def test_bad_captions_files(photographs, tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=re.escape(message)):
        extract_embeddings.read_captions(path, photographs)
    with pytest.raises(ValueError, match=r"captions must be a file, .*none.csv is none"):
        extract_embeddings.read_captions(tmp_path / "none.csv", photographs)


def test_images_are_upright_and_in_rgb(photographs, tmp_path):
    for number, size in enumerate([(60, 40), (30, 30), (50, 9), (48, 64)]):
        image = extract_embeddings.read_image(photographs / f"{number}.png")
        assert image.size == size and image.mode == "RGB"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (20, 10)).save(tmp_path / "turned.jpg", exif=exif)
    assert extract_embeddings.read_image(tmp_path / "turned.jpg").size == (10, 20)
    (tmp_path / "cut.png").write_bytes((photographs / "0.png").read_bytes()[:500])
    with pytest.raises(ValueError, match=r"images must be whole, .*cut.png"):
        extract_embeddings.read_image(tmp_path / "cut.png")
    Image.fromarray(np.full((10, 20), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ValueError, match=r"deep.png: 8 bits a channel are read, its mode is I;16"):
        extract_embeddings.read_image(tmp_path / "deep.png")
    (tmp_path / "deep.ppm").write_bytes(b"P6 2 1 65535\n" + bytes(12))
    with pytest.raises(ValueError, match=r"deep.ppm: 8 bits a channel are read, it has 16"):
        extract_embeddings.read_image(tmp_path / "deep.ppm")
    colors = Image.new("RGB", (2, 1))
    colors.save(tmp_path / "colors.png")
    head = (tmp_path / "colors.png").read_bytes()
    (tmp_path / "deep.png").write_bytes(head[:24] + b"\x10" + head[25:])  # the bits of a channel
    with pytest.raises(ValueError, match=r"deep.png"):
        extract_embeddings.read_image(tmp_path / "deep.png")


# --- random changes -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(60, 40), (1, 300), (1, 1)])
def test_a_changed_image_is_a_part_of_it(size):
    pixels = np.arange(size[0] * size[1]).reshape(size[1], size[0])
    image = Image.fromarray(pixels.astype(np.int32))
    random = np.random.default_rng(0)
    mirrored = 0
    for _ in range(100):
        part = np.asarray(extract_embeddings.changed_image(image, random))
        steps = np.diff(part, axis=1)
        mirrored += (steps == -1).all() and part.shape[1] > 1
        part = part if (steps == 1).all() else part[:, ::-1]
        top, left = divmod(int(part[0, 0]), size[0])
        expected = pixels[top : top + part.shape[0], left : left + part.shape[1]]
        np.testing.assert_array_equal(part, expected)
        if min(size) > 1:
            assert 0.38 < part.size / pixels.size <= 1.0
    assert min(size) == 1 or 30 < mirrored < 70


def test_a_changed_text_lacks_some_of_its_words():
    random = np.random.default_rng(0)
    words = [str(number) for number in range(20)]
    found = [extract_embeddings.changed_text(" ".join(words), random).split() for _ in range(200)]
    for kept in found:
        assert kept == [word for word in words if word in kept]
    assert abs(np.mean([len(kept) for kept in found]) - 16.2) < 0.5
    assert {extract_embeddings.changed_text("one", random) for _ in range(50)} == {"one"}


# --- extraction ---------------------------------------------------------------------------------


def extract(folder, encoder, *, output="output", **options):
    captioned = extract_embeddings.read_captions(coco(folder), folder / "photographs")
    options = {"model": "tiny", "batch_size": 2, "augmentations": 2, **options}
    extract_embeddings.extract(lambda: encoder, captioned, folder / output, **options)
    return captioned


def arrays_of(folder):
    return {
        side: safetensors.numpy.load_file(folder / f"{side}.safetensors")
        for side in ("images", "texts")
    }


def check_same(folder, other):
    found, expected = arrays_of(folder), arrays_of(other)
    for side, arrays in expected.items():
        assert set(found[side]) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_allclose(found[side][name], array, rtol=1e-6, atol=1e-6)


def test_the_files_are_read_as_pairs(photographs, tmp_path, capsys):
    encoder = TinyEncoder()
    captioned = extract(tmp_path, encoder)
    output = tmp_path / "output"
    assert "complete: " in capsys.readouterr().out
    names = {path.name for path in output.iterdir()}
    assert names == {"images.safetensors", "texts.safetensors", "inputs.json"}
    found = embedding_files.read(output / "images.safetensors", output / "texts.safetensors")
    assert found.images.ids.tolist() == [30, 0, 10, 40] and found.image_of.tolist() == [
        0,
        1,
        0,
        2,
        3,
    ]
    assert found.images.model == found.texts.model == "tiny"
    assert found.images.normalized and found.images.vectors.dtype == np.float32
    assert tuple(found.texts.texts) == captioned.captions
    assert list(found.images.texts) == ["3.png", "0.png", "1.png", "4.png"]
    images = [extract_embeddings.read_image(file) for file in captioned.files]
    for side, expected in (
        (found.images, encoder.encode_images(images)),
        (found.texts, encoder.encode_texts(list(captioned.captions))),
    ):
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(side.vectors, expected, rtol=1e-5, atol=1e-6)
        assert side.augmented.shape == (len(expected), 2, 8)
        assert (np.abs(side.augmented - expected[:, None]).max((1, 2)) > 1e-3).any()
    assert encoder.batches[:6] == [2, 2, 2, 2, 2, 2]


def test_without_augmentations(photographs, tmp_path):
    extract(tmp_path, TinyEncoder(), augmentations=0)
    assert all("augmented" not in arrays for arrays in arrays_of(tmp_path / "output").values())


@pytest.mark.parametrize("stop_after", [0, 1, 3, 6, 8, 14])
@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_a_run_goes_on_where_it_was_stopped(photographs, tmp_path, stop_after, batch_size):
    extract(tmp_path, TinyEncoder(), output="whole")
    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path, TinyEncoder(stop_after=stop_after))
    assert not list((tmp_path / "output").glob("*.safetensors"))
    rest = TinyEncoder()
    extract(tmp_path, rest, batch_size=batch_size)
    check_same(tmp_path / "output", tmp_path / "whole")
    done = [2 * (stop_after // 3), stop_after // 3 * 2 - 4]  # images, then texts
    assert sum(rest.batches) == 3 * (9 - min(done[0], 4) - max(done[1], 0))


def test_a_damaged_part_is_made_again(photographs, tmp_path):
    extract(tmp_path, TinyEncoder(), output="whole")
    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path, TinyEncoder(stop_after=8))
    part = tmp_path / "output" / "parts" / "images-000000000002.npy"
    part.write_bytes(part.read_bytes()[:-7])
    extract(tmp_path, TinyEncoder())
    check_same(tmp_path / "output", tmp_path / "whole")


def test_what_is_complete_needs_no_encoder(photographs, tmp_path, capsys):
    extract(tmp_path, TinyEncoder())
    extract(tmp_path, None)
    assert capsys.readouterr().out.count("complete: ") == 2
    # Killed between the last part and the files.
    output = tmp_path / "output"
    (output / "texts.safetensors").unlink()
    extract(tmp_path, TinyEncoder())
    assert (output / "texts.safetensors").exists() and not (output / "parts").exists()


@pytest.mark.parametrize(
    ("options", "name"), [({"model": "other"}, "model"), ({"augmentations": 1}, "augmentations")]
)
def test_other_inputs_need_another_folder(photographs, tmp_path, options, name):
    extract(tmp_path, TinyEncoder())
    with pytest.raises(ValueError, match=f"or one of the same inputs, .* has {name} "):
        extract(tmp_path, TinyEncoder(), **options)


def test_other_images_need_another_folder(photographs, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path, TinyEncoder(stop_after=3))
    Image.new("RGB", (9, 9)).save(photographs / "0.png")
    with pytest.raises(ValueError, match=r"of the same inputs, .* has images_and_captions "):
        extract(tmp_path, TinyEncoder())
    (tmp_path / "photographs" / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="output must be a new folder or one that this script"):
        extract(tmp_path, TinyEncoder(), output="photographs")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"augmentations": -1}, "augmentations must be at least 0, got -1"),
        ({"seed": -1}, "seed must not be negative, got -1"),
    ],
)
def test_bad_options_leave_nothing_behind(photographs, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        extract(tmp_path, TinyEncoder(), **options)
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_bad_embeddings(photographs, tmp_path, value):
    encoder = TinyEncoder()
    encoder.encode_texts = lambda texts: np.full((len(texts), 8), value)
    with pytest.raises(ValueError, match="embeddings must be finite and not zero, that of text 0"):
        extract(tmp_path, encoder)


# --- the script ---------------------------------------------------------------------------------


def test_the_script_names_what_it_imports():
    """The block is read as PEP 723 has it."""
    block = re.search(
        r"(?m)^# /// (?P<type>[a-zA-Z0-9-]+)$\s(?P<content>(^#(| .*)$\s)+)^# ///$",
        SCRIPT.read_text(),
    )
    assert block and block["type"] == "script"
    content = "".join(line[2:] or "\n" for line in block["content"].splitlines(keepends=True))
    found = tomllib.loads(content)
    assert found["requires-python"] == ">=3.11"
    names = {re.split("[>=]", dependency)[0] for dependency in found["dependencies"]}
    assert {"numpy", "pillow", "tqdm", "torch", "open_clip_torch", "transformers"} <= names


def test_the_script_runs_alone(tmp_path):
    """Without this repository on the path, and without torch."""
    command = [sys.executable, "-P", str(SCRIPT)]
    shown = subprocess.run(
        [*command, "--help"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "--captions" in shown.stdout and "PYTHONPATH" not in shown.stdout
    imports = re.findall(r"^(?:from|import) (\w+)", SCRIPT.read_text(), re.M)
    assert not {"experiments", "lasi_jax", "probemb", "torch"} & set(imports)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--library", "open_clip"], "--pretrained must be given for some"),
        (
            ["--library", "transformers", "--pretrained", "x"],
            "--pretrained is an option of open_clip",
        ),
    ],
)
def test_weights_are_named(tmp_path, capsys, options, message):
    paths = [f"--{name}={tmp_path}" for name in ("images", "captions", "output")]
    with pytest.raises(SystemExit):
        extract_embeddings.main([*paths, "--model", "some", *options])
    assert message in capsys.readouterr().err


def test_errors_are_one_line(tmp_path):
    paths = [f"--{name}={tmp_path}" for name in ("images", "captions", "output")]
    with pytest.raises(SystemExit, match=r"^error: captions must be a file, "):
        extract_embeddings.main([*paths, "--library", "transformers", "--model", "some"])


def save_clip(folder):
    """A CLIP of transformers with random weights, and a tokenizer of single letters."""
    transformers = pytest.importorskip("transformers")
    letters = list("abcdefghijklmnopqrstuvwxyz,")
    tokens = [*letters, *(f"{x}</w>" for x in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir()
    write(folder / "vocab.json", {token: number for number, token in enumerate(tokens)})
    write(folder / "merges.txt", "#version: 0.2\n")
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    tower["num_attention_heads"] = 2
    ends = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1, "pad_token_id": 0}
    config = transformers.CLIPConfig(
        text_config={**tower, **ends, "vocab_size": len(tokens), "max_position_embeddings": 12},
        vision_config={**tower, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    transformers.CLIPModel(config).save_pretrained(folder)
    files = (str(folder / "vocab.json"), str(folder / "merges.txt"))
    transformers.CLIPProcessor(
        transformers.CLIPImageProcessor(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
        ),
        transformers.CLIPTokenizer(*files, model_max_length=12),
    ).save_pretrained(folder)


def test_a_model_of_transformers(photographs, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    save_clip(tmp_path / "clip")
    output = tmp_path / "output"
    options = ["--library=transformers", f"--model={tmp_path / 'clip'}", "--batch-size=2"]
    paths = [f"--images={photographs}", f"--captions={coco(tmp_path)}", f"--output={output}"]
    extract_embeddings.main([*paths, *options, "--device=cpu"])
    found = arrays_of(output)
    assert found["images"]["embeddings"].shape == (4, 8)
    assert found["texts"]["embeddings"].shape == (5, 8)
    for arrays in found.values():
        norms = np.linalg.norm(arrays["embeddings"], axis=1)
        np.testing.assert_allclose(norms, 1.0, atol=1e-6)
        assert arrays["embeddings"].std(0).min() > 0.0
