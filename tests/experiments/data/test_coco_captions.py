import json
import re

import pytest

from experiments.data import coco_captions
from tests.experiments.made_up_pairs import coco, write


def test_captions_name_their_photographs(photo_folder, tmp_path):
    path = write(tmp_path / "captions.json", coco())
    found = coco_captions.read(path, photo_folder)
    assert [file.name for file in found.files] == ["0.png", "1.png", "3.png", "4.png"]
    assert all(file.parent == photo_folder for file in found.files)
    assert found.captions == ("A grey cat.", "A dog, a cat", "the dog's cat", "a cat", "a dog")
    assert found.image_of.tolist() == [2, 0, 1, 2, 3]


def annotation(**what):
    return coco(annotations=[{"image_id": 10, "caption": "a dog"} | what])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "captions must be a captions file as COCO has it"),
        ("{", "captions must be a captions file as COCO has it"),
        ("[]", "captions must be a captions file as COCO has it"),
        ({"images": []}, "captions.json: KeyError('annotations')"),
        (coco(images=[{"id": 10}]), "captions.json: KeyError('file_name')"),
        (coco(images=[{"id": None, "file_name": "0.png"}]), "as COCO has it"),
        (coco(images=[{"id": float("inf"), "file_name": "0.png"}]), "as COCO has it"),
        (coco(images=[{"id": 10.0, "file_name": "0.png"}]), "an image has the id 10.0"),
        (coco(images=[{"id": True, "file_name": "0.png"}]), "an image has the id True"),
        (coco(images=[{"id": "10", "file_name": "0.png"}]), "an image has the id '10'"),
        (coco(images=[{"id": 10, "file_name": 3}]), "and the file_name 3, a text"),
        (
            coco(images=[{"id": 10, "file_name": f"{k}.png"} for k in (0, 1)]),
            "captions.json has 10 of 0.png and of 1.png",
        ),
        (annotation(image_id=10.9), "an image_id must be an integer, that of 'a dog' is 10.9"),
        (annotation(image_id="10"), "that of 'a dog' is '10'"),
        (coco(images=3), "as COCO has it"),
        (coco(annotations=["a dog"]), "as COCO has it"),
        (coco(annotations=[]), "captions must describe images of the file"),
        (annotation(image_id=11), "image_id 11 is none of its images"),
        (annotation(caption=" ..."), "captions.json has ' ...' of image 10"),
        (annotation(caption=""), "captions.json has '' of image 10"),
        (annotation(caption=None), "captions.json has None of image 10"),
        (annotation(image_id=60), "image_id 60 is none of its images"),
        (
            coco(images=[{"id": id_, "file_name": f"{id_}.png"} for id_ in (10, 20, 40, 50)]),
            "photographs must hold 10.png",
        ),
    ],
)
def test_bad_captions_files(photo_folder, tmp_path, content, message):
    path = write(tmp_path / "captions.json", content)
    with pytest.raises(ValueError, match=re.escape(message)):
        coco_captions.read(path, photo_folder)


def test_a_mark_of_the_byte_order_is_taken(photo_folder, tmp_path):
    (tmp_path / "captions.json").write_text(json.dumps(coco()), "utf-8-sig")
    found = coco_captions.read(tmp_path / "captions.json", photo_folder)
    assert found.captions[0] == "A grey cat."


def test_ids_beyond_64_bits_are_told_apart(photo_folder, tmp_path):
    ids = [5, 2**63 + 1, 2**63 + 2, 2**63 + 3]
    content = coco(
        images=[
            {"id": id_, "file_name": f"{k}.png"} for k, id_ in zip((0, 1, 3, 4), ids, strict=True)
        ],
        annotations=[{"image_id": id_, "caption": "a dog"} for id_ in ids],
    )
    found = coco_captions.read(write(tmp_path / "large.json", content), photo_folder)
    assert found.image_of.tolist() == [0, 1, 2, 3]


def test_no_captions_file(photo_folder, tmp_path):
    with pytest.raises(ValueError, match=r"captions must be a file, .*none.json is none"):
        coco_captions.read(tmp_path / "none.json", photo_folder)
    (tmp_path / "latin.json").write_bytes('{"images": "é"}'.encode("latin-1"))
    with pytest.raises(ValueError, match="captions must be a captions file as COCO has it"):
        coco_captions.read(tmp_path / "latin.json", photo_folder)
