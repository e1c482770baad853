import numpy as np
import pytest

from experiments.hedging import pictures

IMAGE = np.random.default_rng(0).integers(0, 256, (4, 6, 5), np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_channels_that_are_no_colors_become_gray(channels):
    found = pictures.drawable(IMAGE[..., :channels])
    np.testing.assert_allclose(found, IMAGE[..., :channels].astype(float).mean(2))


def test_colors_and_what_is_gray_stay():
    for image in (IMAGE[..., 0], IMAGE[..., :3]):
        assert pictures.drawable(image) is image
