import jax
import jax.numpy as jnp

from experiments.runs.timing import alternate, report, temporary_gigabytes


def test_calls_alternate():
    order = []
    times = alternate(2, lambda: order.append("a"), lambda: order.append("b"))
    assert order == list("ab" * 3) and len(times) == 2 and min(times) >= 0.0


def test_temporary_memory_is_what_lies_between_argument_and_result():
    def through_a_table(x):
        return jnp.sum(jnp.sort(x[:, None] * x[None], axis=0), axis=0)

    gigabytes, compiled = temporary_gigabytes(
        through_a_table, jax.ShapeDtypeStruct((1000,), jnp.float32)
    )
    assert 0.004 <= gigabytes < 0.05
    assert compiled(jnp.ones(1000, jnp.float32)).tolist() == [1000.0] * 1000


def test_a_line_says_whether_the_bar_is_met(capsys):
    report("one", 2.0, "x", ">= 1", True)
    report("two", 0.5, "x", ">= 1", False)
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["one", "2.00", "x", ">=", "1", "met"]
    assert second.split()[-1] == "MISSED"
