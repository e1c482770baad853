"""Made-up image-caption pairs: a captions file as COCO has it, and a file of features."""

import json

import numpy as np
import safetensors.numpy


def features(number=24, captions_of_each=2):
    """A file of features in which a caption is a noisy half of its image."""
    random = np.random.default_rng(0)
    ids = random.permutation(1000)[:number]
    images = random.normal(size=(number, 3, 10)).astype(np.float32)
    image_of = random.permutation(np.arange(number).repeat(captions_of_each))
    captions = images[image_of].mean(1)[:, :5]
    captions = captions + 0.1 * random.normal(size=captions.shape).astype(np.float32)
    return {
        "image_features": images,
        "image_ids": ids,
        "caption_features": captions,
        "caption_image_ids": ids[image_of],
    }


def save(path, arrays):
    if path.suffix == ".npz":
        np.savez_compressed(path, **arrays)
    else:
        safetensors.numpy.save_file(arrays, path)
    return path


def coco(**changes):
    """A captions file of images 10, 20, 30, 40, 50, of which the third has no captions."""
    return {
        "info": {},
        "images": [
            {"id": 10 * (number + 1), "file_name": f"{number}.png", "width": 1}
            for number in (3, 0, 1, 2, 4)
        ],
        "annotations": [
            {"id": 1, "image_id": 40, "caption": "A grey cat."},
            {"id": 2, "image_id": 10, "caption": "A dog, a cat"},
            {"id": 3, "image_id": 20, "caption": "the dog's cat"},
            {"id": 4, "image_id": 40, "caption": "a cat"},
            {"id": 5, "image_id": 50, "caption": "a dog"},
        ],
    } | changes


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path
