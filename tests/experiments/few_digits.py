"""Captioned digits of which little is to be embedded."""

import numpy as np

from experiments import active_learning
from experiments.data import captioned_digits


def some_of_every_split(datasets):
    """Every split of scikit-learn's digits, cut down to some images.

    Args:
      datasets: the folder where the whole is prepared.
    """
    return {
        name: active_learning.some_of(split, np.arange(0, len(split.images), 15))
        for name, split in captioned_digits.load("sklearn", datasets).items()
    }
