import matplotlib.pyplot as plt
import numpy as np
import pytest

from experiments.reports import plots


@pytest.fixture
def axis():
    figure, axes = plots.panels(1, 1)
    yield axes[0, 0]
    plt.close(figure)


def test_a_name_keeps_its_color():
    names = [f"method {k}" for k in range(13)]
    colors = plots.palette(names)
    assert len(set(colors.values())) == len(names)
    assert plots.palette(names[:3]) == {name: colors[name] for name in names[:3]}


def test_rejecting_what_fails_leaves_what_is_right(axis):
    error = np.repeat([1.0, 0.0], 50)
    oracle, opposite = error + np.linspace(0.0, 0.1, 100), -error
    uncertainties = {"oracle": [oracle], "opposite": [opposite]}
    errors = {"oracle": [error], "opposite": [error]}
    plots.rejection(axis, uncertainties, errors, {"oracle": "#4477aa"}, dashed=("opposite",))
    best, worst = axis.get_lines()
    share = np.asarray(best.get_xdata())
    assert (np.diff(share) > 0).all() and share.max() < 0.98
    np.testing.assert_allclose(best.get_ydata()[-1], 1.0, atol=1e-6)
    np.testing.assert_allclose(worst.get_ydata()[-1], 0.0, atol=1e-6)
    np.testing.assert_allclose(best.get_ydata()[0], 0.5, atol=1e-6)
    assert (worst.get_color(), worst.get_linestyle()) == (plots.GRAY, "--")


def test_rivals_of_one_color_are_told_apart(axis):
    values = {name: [np.linspace(0.0, 1.0, 100)] for name in "abcd"}
    colors = {"a": "#4477aa", "b": "#4477aa", "c": "#4477aa"}
    plots.rejection(axis, values, values, colors, dashed="bcd")
    assert [line.get_linestyle() for line in axis.get_lines()] == ["-", "--", ":", "--"]


def test_calibrated_probabilities_and_intervals_lie_on_the_diagonal(axis):
    random = np.random.default_rng(0)
    probability = random.uniform(size=20_000)
    match = (random.uniform(size=20_000) < probability).astype(float)
    plots.reliability(axis, {"p": probability}, {"p": match}, {})
    plots.coverage(axis, {"inside": random.uniform(size=20_000)}, {})
    _, reliable, _, covered = axis.get_lines()
    for line in (reliable, covered):
        np.testing.assert_allclose(line.get_xdata(), line.get_ydata(), atol=0.03)


def test_boxes_stand_at_the_levels_of_ambiguity(axis):
    known = np.repeat([0.0, 2.0, 4.0], 20)
    plots.ambiguity(axis, known, known * 10.0)
    medians = [line for line in axis.get_lines() if len(set(line.get_ydata())) == 1]
    centers = {round(float(np.mean(line.get_xdata())), 6) for line in medians}
    assert centers == {0.0, 2.0, 4.0}


def test_names_at_the_ends_of_lines_keep_their_distance(axis):
    for k in range(6):
        axis.plot([0.0, 1.0], [0.0, 0.99 + 1e-3 * k], label=f"line {k}")
    axis.set_ylim(0.0, 1.0)
    plots.name_ends(axis)
    heights = sorted(text.xy[1] for text in axis.texts)
    assert [text.get_text() for text in axis.texts] == [f"line {k}" for k in range(6)]
    assert np.diff(heights).min() > 0.03 and max(heights) <= 1.0


def test_a_saved_figure_is_a_file_and_is_closed(tmp_path):
    figure, _ = plots.panels(1, 2)
    plots.save(tmp_path / "picture.png", figure)
    assert (tmp_path / "picture.png").stat().st_size > 1000
    assert not plt.fignum_exists(figure.number)


def test_a_text_of_any_alphabet_is_drawn_without_a_warning(axis, tmp_path, recwarn):
    """Private characters no font has."""
    assert plots.drawable("a $ photo.png")["text"] == "a $ photo.png"
    assert plots.drawable("a\ue9f3.png")["text"] in ("a?.png", "a\ue9f3.png")
    for text in ("写真.png", "a\ue9f3.png"):
        axis.set_title("").set(**plots.drawable(text))
        axis.figure.savefig(tmp_path / "a.png")
    assert not recwarn.list
