import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import coco_retrieval
from experiments.coco_retrieval import Config, Scores
from experiments.data import eccv_caption
from experiments.data.eccv_caption import DIRECTIONS, Benchmark

ROOT = Path(__file__).parents[2]
IMAGE_TO_CAPTION, CAPTION_TO_IMAGE = DIRECTIONS


def inverse(pairs: dict[int, list[int]]) -> dict[int, list[int]]:
    result: dict[int, list[int]] = {}
    for query, found in pairs.items():
        for item in found:
            result.setdefault(item, []).append(query)
    return result


def write(folder: Path) -> Path:
    """A benchmark of 10 images with two captions each, in the form of the published one."""
    random = np.random.default_rng(0)
    images, captions = random.permutation(100)[:10], random.permutation(900)[:20]
    own = {int(i): captions[2 * n : 2 * n + 2].tolist() for n, i in enumerate(images)}
    more = {i: [*own[i], *random.choice(captions, 3).tolist()] for i in own}
    more = {i: list(dict.fromkeys(found)) for i, found in more.items()}
    some = {i: more[i] for i in list(own)[::2]}
    folder.mkdir()
    np.save(folder / "coco_test_ids.npy", captions)
    for name, pairs in (("original", own), ("cxc", more), ("eccv", some)):
        both = {"image_to_caption": pairs, "caption_to_image": inverse(pairs)}
        for direction, content in both.items():
            path = folder / f"{name}_{direction}.json"
            path.write_text(json.dumps({str(q): found for q, found in content.items()}))
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "data")


def by_hand(scores: Scores, positives: dict[int, list[int]], direction: str) -> dict[str, float]:
    """The metrics of scores without ties, query by query."""
    values, queries, items = scores
    if direction == CAPTION_TO_IMAGE:
        values, queries, items = values.T, items, queries
    row = {int(query): place for place, query in enumerate(queries)}
    known = set(items.tolist())
    each = []
    for query, found in positives.items():
        if query not in row:
            continue
        matches = set(found) & known
        number = len(matches)
        score = values[row[query]]
        first = np.argpartition(-score, min(60, len(score) - 1))[:60]
        ranked = items[first[np.argsort(-score[first])]].tolist()
        hits = [item in matches for item in ranked]
        precision = [sum(hits[: r + 1]) / (r + 1) for r in range(number)]
        each.append(
            [
                *(any(hits[:k]) for k in (1, 5, 10)),
                precision[-1],
                sum(p for p, hit in zip(precision, hits, strict=False) if hit) / number,
            ]
        )
    names = ("R@1", "R@5", "R@10", "R-Precision", "mAP@R")
    return dict(zip(names, 100 * np.mean(each, axis=0), strict=True))


def assert_as_by_hand(protocol, collection: str, scores: Scores, benchmark: Benchmark):
    numbers = protocol(scores, benchmark)
    for direction in DIRECTIONS:
        expected = by_hand(scores, benchmark.positives[collection][direction], direction)
        for name, value in numbers[direction].items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-5, err_msg=name)
    return numbers


def shuffled_scores(benchmark: Benchmark, seed: int) -> Scores:
    random = np.random.default_rng(seed)
    images, captions = (random.permutation(ids) for ids in benchmark[:2])
    return Scores(random.normal(size=(len(images), len(captions))), images, captions)


def assert_1k_as_by_hand(numbers, scores: Scores, benchmark: Benchmark):
    """Folds of consecutive captions, as published, instead of consecutive images."""
    folds = []
    for start in range(0, len(benchmark.caption_ids), len(benchmark.caption_ids) // 5):
        some = slice(start, start + len(benchmark.caption_ids) // 5)
        captions, images = benchmark.caption_ids[some], benchmark.image_of_caption[some]
        chosen = np.isin(scores.image_ids, images), np.isin(scores.caption_ids, captions)
        fold = Scores(
            scores.values[chosen[0]][:, chosen[1]],
            scores.image_ids[chosen[0]],
            scores.caption_ids[chosen[1]],
        )
        folds.append({d: by_hand(fold, benchmark.positives["original"][d], d) for d in DIRECTIONS})
    for direction in DIRECTIONS:
        for name, value in numbers[direction].items():
            expected = np.mean([fold[direction][name] for fold in folds])
            np.testing.assert_allclose(value, expected, rtol=1e-5)


PLAIN = [
    (coco_retrieval.coco_5k, "original"),
    (coco_retrieval.cxc, "cxc"),
    (coco_retrieval.eccv_caption, "eccv"),
]


def test_protocols_are_as_by_hand_in_any_order_and_blocks(folder, monkeypatch):
    benchmark = eccv_caption.read(folder)
    scores = shuffled_scores(benchmark, 1)
    whole = coco_retrieval.evaluate(scores, benchmark)
    monkeypatch.setattr(coco_retrieval, "BLOCK", 4)
    for protocol, collection in PLAIN:
        assert_as_by_hand(protocol, collection, scores, benchmark)
    assert_1k_as_by_hand(coco_retrieval.coco_1k(scores, benchmark), scores, benchmark)
    assert list(whole) == ["COCO 5K", "COCO 1K", "CxC", "ECCV Caption"]
    np.testing.assert_allclose(
        whole["COCO 5K"][IMAGE_TO_CAPTION]["R@5"],
        coco_retrieval.coco_5k(scores, benchmark)[IMAGE_TO_CAPTION]["R@5"],
    )


def matches(
    benchmark: Benchmark, collection: str, direction: str, dtype: type = np.float32
) -> Scores:
    """Scores of 1 for positives and 0 for the others."""
    images, captions = benchmark[:2]
    rows, columns = ({int(one): n for n, one in enumerate(ids)} for ids in (images, captions))
    values = np.zeros((len(images), len(captions)), dtype)
    for query, found in benchmark.positives[collection][direction].items():
        for item in found:
            image, caption = (query, item) if direction == IMAGE_TO_CAPTION else (item, query)
            if image in rows and caption in columns:
                values[rows[image], columns[caption]] = 1.0
    return Scores(values, images, captions)


def test_perfect_and_constant_scores(folder):
    benchmark = eccv_caption.read(folder)
    numbers = coco_retrieval.eccv_caption(matches(benchmark, "eccv", IMAGE_TO_CAPTION), benchmark)
    for of_direction in numbers.values():
        np.testing.assert_allclose(list(of_direction.values()), 100.0)
    constant = Scores(np.zeros((10, 20)), *benchmark[:2])
    numbers = coco_retrieval.coco_5k(constant, benchmark)
    # Of 20 captions two are right, and of 10 images one.
    expected = [10.0, 100 * (1 - 15 * 14 / (20 * 19)), 100 * (1 - 10 * 9 / (20 * 19))]
    np.testing.assert_allclose(list(numbers[IMAGE_TO_CAPTION].values()), expected)
    np.testing.assert_allclose(list(numbers[CAPTION_TO_IMAGE].values()), [10.0, 50.0, 100.0])


def test_positives_beyond_the_test_split_are_left_out(folder):
    path = folder / "eccv_image_to_caption.json"
    content = json.loads(path.read_text())
    for found in content.values():
        found.append(12345)
    path.write_text(json.dumps(content))
    benchmark = eccv_caption.read(folder)
    numbers = coco_retrieval.eccv_caption(matches(benchmark, "eccv", IMAGE_TO_CAPTION), benchmark)
    np.testing.assert_allclose(numbers[IMAGE_TO_CAPTION]["mAP@R"], 100.0)


def saved(folder: Path, scores: Scores) -> Config:
    paths = [folder.parent / f"{name}.npy" for name in Scores._fields]
    for path, array in zip(paths, scores, strict=True):
        np.save(path, array)
    return Config(paths[0], folder, paths[1], paths[2])


def test_files_and_table(folder, capsys):
    benchmark = eccv_caption.read(folder)
    scores = shuffled_scores(benchmark, 2)
    numbers = coco_retrieval.run(saved(folder, scores))
    assert numbers == coco_retrieval.evaluate(scores, benchmark)
    table = capsys.readouterr().out
    assert "image to caption" in table and table.count("\n") == 14
    value = numbers["ECCV Caption"][CAPTION_TO_IMAGE]["mAP@R"]
    assert table.rstrip().endswith(f"{value:.2f}")
    # Without ids, rows and columns are in the published order.
    place = [
        np.argsort(ids)[np.argsort(np.argsort(published))]
        for ids, published in zip(scores[1:], benchmark[:2], strict=True)
    ]
    np.save(folder.parent / "ordered.npy", scores.values[np.ix_(*place)])
    assert coco_retrieval.run(Config(folder.parent / "ordered.npy", folder)) == numbers


def test_command(folder):
    arguments = ["--scores", str(folder / "none.npy"), "--folder", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "experiments.coco_retrieval", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "none.npy" in done.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, i, c: (v[1:], i, c), r"shape \(image, caption\), \(10, 20\), got \(9, 20\)"),
        (lambda v, i, c: (v.T, i, c), r"shape \(image, caption\), \(10, 20\), got \(20, 10\)"),
        (lambda v, i, c: (v[1:], i[1:], c), r"image_ids must hold the whole test split, without"),
        (lambda v, i, c: (v, i, c + 1000), r"caption_ids must be of the test split, got .*20 in"),
        (lambda v, i, c: (v, i[[0, *range(9)]], c), "image_ids must not repeat an id, got"),
        (lambda v, i, c: (v, i * 1.0, c), r"image_ids must be integers of one axis, got float64"),
        (lambda v, i, c: (v.astype(int), i, c), "scores must be floating point, got dtype int64"),
        (lambda v, i, c: (v / (np.arange(20) != 3), i, c), "must be finite in single precision, g"),
        (lambda v, i, c: (v + np.nan, i, c), "got nan for image .* and caption"),
        (lambda v, i, c: (v * 1e300, i, c), "must be finite in single precision, got"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_bad_scores(folder, change, message):
    scores = Scores(*change(*shuffled_scores(eccv_caption.read(folder), 3)))
    with pytest.raises(ValueError, match=message):
        coco_retrieval.run(saved(folder, scores))


def test_ids_are_integers_and_given_once(folder):
    path = folder / "cxc_image_to_caption.json"
    before = path.read_text()
    path.write_text(before, "utf-8-sig")
    eccv_caption.read(folder)
    for content, message in (
        (before[:-1] + ', "1000": [1.9]}', "cxc_image.* lists of ids by id: 1.9 is no integer"),
        (before[:-1] + ', "1000": [true]}', "True is no integer"),
        ('{"7": [1], "7": [2]}', "cxc_image_to_caption.json must hold each id once, it has 7"),
        ('{"7": [1], "07": [2]}', "must hold each id once, it has 7 twice"),
        ("[7]", "lists of ids by id"),
        ("7", "lists of ids by id"),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            eccv_caption.read(folder)
    path.write_text(before)
    ids = np.load(folder / "coco_test_ids.npy")
    for bad, message in (
        (ids.astype(float), "coco_test_ids.npy must be integers"),
        (np.append(ids, ids[:1]), f"coco_test_ids.npy must not repeat an id, got {ids[0]}"),
    ):
        np.save(folder / "coco_test_ids.npy", bad)
        with pytest.raises(ValueError, match=message):
            eccv_caption.read(folder)


@pytest.mark.parametrize("dtype", [">f4", ">f8", np.float16, np.longdouble])
def test_scores_of_other_floats(folder, dtype):
    benchmark = eccv_caption.read(folder)
    scores = shuffled_scores(benchmark, 0)
    scores = scores._replace(values=scores.values.astype(np.float16))
    expected = coco_retrieval.coco_5k(scores, benchmark)
    other = scores._replace(values=scores.values.astype(dtype))
    found = coco_retrieval.coco_5k(coco_retrieval.checked(other, benchmark), benchmark)
    for direction in DIRECTIONS:
        assert found[direction] == pytest.approx(expected[direction], rel=1e-5)


def test_bad_files(folder, tmp_path):
    scores = tmp_path / "scores.npy"
    for content in (b"", b"no array"):
        scores.write_bytes(content)
        with pytest.raises(ValueError, match=r"scores.npy must be an array that numpy.save wrote"):
            coco_retrieval.run(Config(scores, folder))
    np.savez(tmp_path / "several.npz", a=1, b=2)
    with pytest.raises(ValueError, match=r"several.npz must be an array .*: it holds several"):
        coco_retrieval.run(Config(tmp_path / "several.npz", folder))
    with pytest.raises(ValueError, match=r"folder must be a folder, .*nowhere is none"):
        eccv_caption.read(tmp_path / "nowhere")
    path = folder / "cxc_caption_to_image.json"
    wrong = "[[1, [2]]]", '[["1", [2]]]', '{"1_0": [2]}', '{"1": {}}'
    for content in ("", "[1, 2]", '{"a": [1]}', '{"1": 2}', *wrong):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"cxc_caption_to_image.json must hold lists of ids"):
            eccv_caption.read(folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"cxc_caption_to_image.json"):
        eccv_caption.read(folder)
    write(tmp_path / "other")
    (tmp_path / "other" / "original_caption_to_image.json").write_text("{}")
    with pytest.raises(ValueError, match="must hold the image of every caption, none of"):
        eccv_caption.read(tmp_path / "other")


@pytest.fixture(scope="module")
def published(data):
    if not (data / "eccv_caption").is_dir():
        pytest.skip("LASI_PROBEMB_DATA names a folder without eccv_caption")
    return eccv_caption.read(data / "eccv_caption")


def test_published_sizes(published):
    assert published.image_ids.shape == (5000,) and published.caption_ids.shape == (25_000,)
    queries = {
        collection: [len(positives[direction]) for direction in DIRECTIONS]
        for collection, positives in published.positives.items()
    }
    assert queries == {"original": [5000, 25_000], "cxc": [5000, 24_972], "eccv": [1261, 1332]}
    for direction, mean in zip(DIRECTIONS, (17.9, 8.5), strict=True):
        lengths = [len(found) for found in published.positives["eccv"][direction].values()]
        assert round(np.mean(lengths), 1) == mean
    listed = {one for of in published.positives["eccv"][IMAGE_TO_CAPTION].values() for one in of}
    assert len(listed - set(published.caption_ids.tolist())) == 2


def planted_scores(benchmark: Benchmark) -> Scores:
    """Finite floats of which no two are equal; a fifth of the positives is above all others."""
    bits = np.arange(5000 * 25_000, dtype=np.uint32)
    for factor in (2654435761, 2246822519):  # odd, so that what differs still does
        bits *= np.uint32(factor)
        bits &= np.uint32(2**27 - 1)
        bits ^= bits >> np.uint32(13)
    bits += np.uint32(2**29)
    values = bits.view(np.float32).reshape(5000, 25_000)
    random = np.random.default_rng(4)
    rows, columns = ({int(one): n for n, one in enumerate(ids)} for ids in benchmark[:2])
    pairs = sorted(
        {
            (rows[image], columns[caption])
            for collection in ("cxc", "eccv")
            for image, found in benchmark.positives[collection][IMAGE_TO_CAPTION].items()
            for caption in found
            if caption in columns and random.uniform() < 0.2
        }
    )
    values[tuple(np.array(pairs).T)] = 1.0 + random.permutation(len(pairs))
    return Scores(values, *benchmark[:2])


@pytest.mark.slow
def test_published_protocols_are_as_by_hand(published):
    scores = planted_scores(published)
    chosen = {*published.image_ids[::5].tolist(), *published.caption_ids[::20].tolist()}
    some = {
        collection: {
            direction: {query: found for query, found in of.items() if query in chosen}
            for direction, of in positives.items()
        }
        for collection, positives in published.positives.items()
    }
    published = published._replace(positives=some)
    for protocol, collection in PLAIN:
        numbers = assert_as_by_hand(protocol, collection, scores, published)
        for of_direction in numbers.values():
            assert all(5.0 < value < 99.0 for value in of_direction.values())
    assert_1k_as_by_hand(coco_retrieval.coco_1k(scores, published), scores, published)


@pytest.mark.slow
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_published_positives_are_perfect(published, direction):
    scores = matches(published, "eccv", direction, np.float16)
    positives, metrics = published.positives["eccv"][direction], coco_retrieval.RANKINGS
    numbers = coco_retrieval.mean_of(scores, positives, direction, metrics)
    np.testing.assert_allclose(list(numbers.values()), 100.0)
