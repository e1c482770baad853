"""TID2013 and KADID-10k: what is in the published folders comes out, mistakes are named."""

import csv
import shutil

import numpy as np
import pytest
from PIL import Image

from experiments.data import opinion_scores, prepared

# Lines of the published files, and the images that they are of.
TID = ("5.51429 I01_01_1.bmp", "3.86 i01_01_5.bmp", "0.24242 i25_24_5.bmp")
KADID = ("I01_01_01.png,I01.png,4.57,0.496", "I81_25_05.png,I81.png,1.67,0.9")


def picture(name, height=6, width=8):
    """An image that no other name has."""
    seed = list(name.lower().encode())
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def save(path, **size):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(path.stem, **size)).save(path)


def write_tid(folder, lines=TID):
    """The case of names is as mixed as in the published folder."""
    for name in ("I01.BMP", "i25.bmp"):
        save(folder / "reference_images" / name)
    for name in ("i01_01_1.bmp", "I01_01_5.BMP", "i25_24_5.bmp"):
        save(folder / "distorted_images" / name)
    (folder / "mos_with_names.txt").write_text("".join(f"{line}\r\n" for line in lines))
    return folder


def write_kadid(folder, lines=KADID, header="dist_img,ref_img,dmos,var"):
    for name in ("I01", "I81", "I01_01_01", "I81_25_05"):
        save(folder / "images" / f"{name}.png")
    (folder / "dmos.csv").write_text("\n".join((header, *lines, "")))
    return folder


def test_tid2013(tmp_path):
    scored = opinion_scores.load("tid2013", write_tid(tmp_path / "tid"), tmp_path / "datasets")
    assert len(scored) == 3
    np.testing.assert_array_equal(scored.opinion, [5.51429, 3.86, 0.24242])
    np.testing.assert_array_equal(scored.reference, [1, 1, 25])
    np.testing.assert_array_equal(scored.kind, [1, 1, 24])
    np.testing.assert_array_equal(scored.level, [1, 5, 5])
    references, distorted = scored.images(range(1, 3))
    assert references.dtype == distorted.dtype == np.uint8
    np.testing.assert_array_equal(references, [picture("I01"), picture("I25")])
    np.testing.assert_array_equal(distorted, [picture("I01_01_5"), picture("I25_24_5")])
    columns = {name: scored._examples.column(name) for name in ("reference", "kind", "level")}
    for name, column in columns.items():
        np.testing.assert_array_equal(column, getattr(scored, name))
    np.testing.assert_array_equal(scored._examples.column("opinion"), np.float32(scored.opinion))


def test_kadid10k_in_any_order_and_anew_for_other_scores(tmp_path):
    folder, datasets = write_kadid(tmp_path / "kadid", KADID[::-1]), tmp_path / "datasets"
    scored = opinion_scores.load("kadid10k", folder, datasets)
    np.testing.assert_array_equal(scored.opinion, [4.57, 1.67])
    np.testing.assert_array_equal(scored.reference, [1, 81])
    np.testing.assert_array_equal(scored.kind, [1, 25])
    np.testing.assert_array_equal(scored.level, [1, 5])
    references, distorted = scored.images(range(2))
    np.testing.assert_array_equal(references, [picture("I01"), picture("I81")])
    np.testing.assert_array_equal(distorted, [picture("I01_01_01"), picture("I81_25_05")])

    write_kadid(folder, KADID[:1])
    (folder / "images/I81_25_05.png").unlink()
    assert len(opinion_scores.load("kadid10k", folder, datasets)) == 1
    assert len(list(datasets.iterdir())) == 2


def test_a_pair_of_tid2013_itself(data, tmp_path):
    for name, part in (("I01.BMP", "reference_images"), ("i01_01_5.bmp", "distorted_images")):
        (tmp_path / "tid" / part).mkdir(parents=True)
        shutil.copy(data / "iqa_golden" / name, tmp_path / "tid" / part)
    (tmp_path / "tid/mos_with_names.txt").write_text("3.86000 I01_01_5.bmp\n")
    scored = opinion_scores.load("tid2013", tmp_path / "tid", tmp_path / "datasets")
    reference, distorted = scored.images(range(1))
    assert reference.shape == (1, 384, 512, 3) and scored.opinion == [3.86]
    for found, name in ((reference, "I01.BMP"), (distorted, "i01_01_5.bmp")):
        with Image.open(data / "iqa_golden" / name) as image:
            np.testing.assert_array_equal(found[0], np.asarray(image))
    error = np.square(reference.astype(float) - distorted).mean()
    assert error == pytest.approx(514.65, abs=0.005)


@pytest.mark.parametrize("name", opinion_scores.NAMES)
def test_all_published_scores_are_read(data, tmp_path, monkeypatch, name):
    """Their names and numbers, without their images; and more is better."""
    with (data / "iqa_mos" / f"{opinion_scores.TITLES[name]}.csv").open() as file:
        rows = [(row["dis_img_path"].split("/")[-1], row["score"]) for row in csv.DictReader(file)]
    names = [image for image, _ in rows] + [f"I{k:02d}.{rows[0][0][-3:]}" for k in range(1, 82)]
    monkeypatch.setattr(
        opinion_scores, "_by_name", lambda folder, layout: {n.lower(): folder / n for n in names}
    )
    if name == "tid2013":
        lines = [f"{score} {image}" for image, score in rows]
        write_tid(tmp_path, lines)
    else:
        write_kadid(tmp_path, [f"{image},{image[:3]}.png,{score},1.0" for image, score in rows])
    found = opinion_scores._rows(name, tmp_path)
    kinds = len(opinion_scores.KINDS[name])
    assert len(found) == len(rows) == {"tid2013": 25, "kadid10k": 81}[name] * kinds * 5
    of_level = {level: [r.opinion for r in found if r.level == level] for level in (1, 5)}
    assert np.mean(of_level[1]) > np.mean(of_level[5]) + 1.0
    counted = {(row.reference, row.kind, row.level) for row in found}
    assert len(counted) == len(found) and max(row.kind for row in found) == kinds


def test_kinds_are_as_many_as_published():
    for name, count in (("tid2013", 24), ("kadid10k", 25)):
        assert len(set(opinion_scores.KINDS[name])) == len(opinion_scores.KINDS[name]) == count
        assert set(opinion_scores.TITLES) == set(opinion_scores.NAMES)


TID_MISTAKES = {
    "words": (["good I01_01_1.bmp"], r"line 1: the opinion must be a finite number, got 'good I"),
    "NaN": (["nan I01_01_1.bmp"], r"line 1: the opinion must be a finite number"),
    "no image": ([TID[0], "5.5"], r"names\.txt, line 2: a line must be <opinion> <image>, got '5"),
    "another name": (["5.5 photo.bmp"], r"line 1: an image must be named i<reference>_<kind>_<l"),
    "kind 25": (["5.5 I01_25_1.bmp"], r"line 1: .*with at most 25, 24 and 5, got '5\.5 I01_25_1"),
    "level 0": (["5.5 I01_01_0.bmp"], r"line 1: .*with at most 25, 24 and 5"),
    "twice": ([*TID, TID[0]], r"line 4: an image must have one score, got '5\.51429 I01_01_1"),
    "no such image": ([*TID, "5 I01_02_1.bmp"], r"line 4: i01_02_1\.bmp is missing; download TID"),
    "no such reference": (["5 I02_01_1.bmp"], r"line 1: i02\.bmp is missing; download TID2013"),
    "no score": (TID[:2], r"i25_24_5\.bmp has no score in .*mos_with_names\.txt"),
    "nothing": ([], r"mos_with_names\.txt must hold scores, it has none; download TID2013"),
}


@pytest.mark.parametrize("mistake", TID_MISTAKES)
def test_mistakes_of_tid2013_are_named(tmp_path, mistake):
    lines, message = TID_MISTAKES[mistake]
    folder = write_tid(tmp_path / "tid", lines)
    with pytest.raises(ValueError, match=message):
        opinion_scores.load("tid2013", folder, tmp_path / "datasets")
    assert not (tmp_path / "datasets").exists()


KADID_MISTAKES = {
    "another header": ({"header": "image,mos"}, r"dmos\.csv must begin with the line dist_img,ref"),
    "three columns": (
        {"lines": ["I01_01_01.png,I01.png,4.5"]},
        r"line 2: a line must be <image>,<reference>,<opinion>,<variance>, got 'I01",
    ),
    "words": ({"lines": ["I01_01_01.png,I01.png,good,1"]}, r"line 2: the opinion must be a finite"),
    "of TID2013": ({"lines": ["I01_01_1.bmp,I01.png,4,1"]}, r"line 2: an image must .*\.png, with"),
    "no score": ({"lines": KADID[:1]}, r"images/I81_25_05\.png has no score in .*dmos\.csv"),
}


@pytest.mark.parametrize("mistake", KADID_MISTAKES)
def test_mistakes_of_kadid10k_are_named(tmp_path, mistake):
    options, message = KADID_MISTAKES[mistake]
    folder = write_kadid(tmp_path / "kadid", **options)
    with pytest.raises(ValueError, match=message):
        opinion_scores.load("kadid10k", folder, tmp_path / "datasets")


@pytest.mark.parametrize("name", opinion_scores.NAMES)
def test_folders_that_are_not_there_say_what_to_download(tmp_path, name):
    published = {"tid2013": "reference_images", "kadid10k": "images"}[name]
    title = opinion_scores.TITLES[name]
    message = rf"{name} must be a folder that holds {published}, .* is none; download {title} \("
    with pytest.raises(ValueError, match=message):
        opinion_scores.load(name, tmp_path, tmp_path / "datasets")


def test_bad_names_and_texts(tmp_path):
    with pytest.raises(ValueError, match=r"name must be one of \('tid2013', 'kadid10k'\), got 'x'"):
        opinion_scores.load("x", tmp_path, tmp_path)
    folder = write_tid(tmp_path / "tid")
    (folder / "mos_with_names.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"mos_with_names\.txt must be a file of text"):
        opinion_scores.load("tid2013", folder, tmp_path / "datasets")


def test_files_that_differ_in_case_alone_are_refused(tmp_path):
    folder = write_tid(tmp_path / "tid")
    save(folder / "reference_images" / "I25.bmp")
    with pytest.raises(ValueError, match=r"reference_images must hold i25\.bmp once, it has I25"):
        opinion_scores.load("tid2013", folder, tmp_path / "datasets")


def test_a_mark_of_the_byte_order_is_taken(tmp_path):
    folder = write_kadid(tmp_path / "kadid")
    (folder / "dmos.csv").write_text((folder / "dmos.csv").read_text(), "utf-8-sig")
    assert len(opinion_scores._rows("kadid10k", folder)) == 2


@pytest.mark.parametrize("damage", ["size", "content"])
def test_images_of_another_size_or_damaged(tmp_path, damage):
    folder = write_tid(tmp_path / "tid")
    path = folder / "distorted_images/i25_24_5.bmp"
    if damage == "size":
        save(path, width=9)
        message = r"i25_24_5\.bmp must be 8 x 6 pixels, it is 9 x 6"
    else:
        path.write_bytes(path.read_bytes()[:100])
        message = r"i25_24_5\.bmp is damaged"
    with pytest.raises(ValueError, match=message):
        opinion_scores.load("tid2013", folder, tmp_path / "datasets")
    assert not list(tmp_path.rglob("dataset_info.json"))


def test_png_files_stay_as_they_are_and_others_become_png(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "b.bmp")
    assert prepared.png(tmp_path / "a.png", (6, 8)) == (tmp_path / "a.png").read_bytes()
    (tmp_path / "c.png").write_bytes(prepared.png(tmp_path / "b.bmp", (6, 8)))
    with Image.open(tmp_path / "c.png") as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), picture("b"))
