import jax
import pytest

from experiments import match_probability


def test_isotropic_is_exact_and_others_are_near(capsys):
    config = match_probability.Config(dimensions=(4,), ratios=(1.0, 100.0), num_samples=10_000)
    table = match_probability.run(config)
    isotropic, stretched = table.values()
    assert isotropic["error"] < 5.0 * isotropic["standard"]
    assert isotropic["error"] < stretched["error"] < 0.15
    assert "ratio of variances" in capsys.readouterr().out


@pytest.mark.parametrize("direction", match_probability.DIRECTIONS)
def test_cases_are_as_told(direction):
    p, q = match_probability.case(3, 16.0, 2.0, direction)
    variance = p.variance + q.variance
    assert float(variance.sum()) == pytest.approx(1.0, rel=1e-6)
    assert float(variance.max() / variance.min()) == pytest.approx(16.0, rel=1e-5)
    assert float(jax.numpy.linalg.norm(p.mean - q.mean)) == pytest.approx(2.0, rel=1e-6)
