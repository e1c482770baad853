import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from experiments.adapters import pictures, training
from experiments.adapters.frozen import KINDS
from experiments.captions.retrieval import SIDES
from experiments.reports import plots
from experiments.uncertainty import baselines
from tests.experiments.adapters.made_up_results import NUMBER, made_up


@pytest.fixture(scope="module")
def known():
    return made_up(True)


@pytest.fixture(scope="module")
def unknown():
    return made_up(False)


def test_the_picture_has_a_column_for_ambiguity_where_it_is_known(known, unknown, tmp_path):
    sizes = []
    for frozen, before, evaluations in (known, unknown):
        path = tmp_path / "adapters.png"
        pictures.draw(path, frozen, before, evaluations)
        with Image.open(path) as image:
            assert np.asarray(image.convert("L")).std() > 10
            sizes.append(image.size)
    assert sizes[0][1] == sizes[1][1] and sizes[0][0] == pytest.approx(1.5 * sizes[1][0], abs=3)


@pytest.mark.parametrize("method", ["von_mises_fisher", "released_own"])
def test_a_picture_of_one_method(unknown, method, tmp_path):
    """Without an interval, and without a curve of rejection."""
    frozen, before, evaluations = unknown
    one = {method: evaluations[method.removesuffix("_own")]}
    pictures.draw(tmp_path / "adapters.png", frozen, before, one)
    assert (tmp_path / "adapters.png").stat().st_size > 10_000


def test_no_two_curves_of_a_panel_have_one_color(known, monkeypatch):
    """With every method and every baseline."""
    frozen, before, evaluations = known
    evaluations = dict.fromkeys(training.METHODS, evaluations["probvlm"])
    names = baselines.named(*KINDS)
    uncertainty = {side: dict.fromkeys(names, np.linspace(0.0, 1.0, NUMBER)) for side in SIDES}
    figures = []
    monkeypatch.setattr(plots, "save", lambda _, figure: figures.append(figure))
    pictures.draw(None, frozen, before._replace(uncertainty=uncertainty), evaluations)
    numbers_of_curves = []
    for axis in figures[0].axes:
        curves = {line.get_label(): line for line in axis.get_lines()}
        colors = [curve.get_color() for label, curve in curves.items() if label[0] != "_"]
        assert len(set(colors)) == len(colors)
        numbers_of_curves.append(len(colors))
    assert numbers_of_curves == [0, 6 + len(names), 8] * 2
    assert curves["released_own"].is_dashed()  # seen through it is what it lies on
    plt.close(figures[0])
