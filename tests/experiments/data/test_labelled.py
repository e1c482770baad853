import numpy as np
import pytest

from experiments.data.labelled import Labelled, check

IMAGES, LABELS = np.zeros((6, 4, 8), np.uint8), np.array([1, 1, 2, 2, 2, -5])
PAIRS = LABELS[[0, 0, 2, 2, 5, 5]]


def test_channels_and_what_pairs_can_be_drawn_of():
    for shape, channels in (((6, 4, 8), 1), ((6, 4, 8, 1), 1), ((6, 4, 8, 3), 3)):
        data = Labelled(np.zeros(shape, np.uint8), PAIRS)
        check("data", data)
        assert data.image_channels == channels


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Labelled(IMAGES[0], PAIRS), r"images of data must be .* uint8, got \(4, 8\) uint8"),
        (Labelled(IMAGES / 255.0, PAIRS), r"images of data must be .* got \(6, 4, 8\) float64"),
        (Labelled(IMAGES, PAIRS[:5]), r"labels of data must be .* 6 images, got \(5,\) int64"),
        (Labelled(IMAGES, PAIRS / 2), r"labels of data must be integers, .* float64"),
        (Labelled(IMAGES, LABELS), r"data must have two labels .* 3 labels, label -5 has one"),
        (Labelled(IMAGES, PAIRS * 0), r"data must have two labels at least, .* got 1 labels$"),
    ],
)
def test_what_no_pairs_can_be_drawn_of_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        check("data", data)
