"""What every public function holds to, whatever it computes: `table` has a row for each.

`pytest -m slow tests/properties`, in about three minutes on two cores. The values of an example
come from a seed and an extent, which a failure shows, and by which it can be made again.
"""

import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from probemb import sharded
from tests.properties.compilations import compilations
from tests.properties.draws import Draw
from tests.properties.table import PROPERTIES, TABLE, public_functions

# A loop that does not end holds no Python lock: only a watching thread can end its process.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300, method="thread")]

FUNCTIONS = public_functions()
# How near float64 comes to itself by another program.
SAME = 1e-7
EXAMPLES = 4  # of one compiled program, on either device as many
HOSTILE = (np.nan, np.inf, -np.inf, 1e30, 1e-40, 0.0, -0.0, -1e30)

drawn = functools.partial(settings, derandomize=True, deadline=None, database=None)


def test_every_public_function_has_a_row_and_no_row_is_left_over():
    assert sorted(FUNCTIONS) == sorted(TABLE)
    assert all(set(row.but) <= set(PROPERTIES) for row in TABLE.values())


def is_floating(leaf) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


BATCH = PartitionSpec("batch")


def mesh_of(kind: str):
    return jax.make_mesh((2,), ("batch",), axis_types=(getattr(AxisType, kind),))


class Case:
    """A public function, its row, and its one compiled program: a batch over two devices."""

    def __init__(self, name: str):
        self.name, self.row, self.function = name, TABLE[name], FUNCTIONS[name]
        self.of_batch = jax.vmap(self.derivatives)
        self.program = jax.jit(self.over(mesh_of("Auto")))
        getattr(self.row.call, "prepare", tuple)()

    def over(self, mesh):
        """The function of a batch, where it may be surrounded by one, within `shard_map`."""
        if "mesh" in self.row.but:
            return self.of_batch
        return jax.shard_map(
            self.of_batch, mesh=mesh, in_specs=BATCH, out_specs=BATCH, check_vma=True
        )

    def __call__(self, values):
        arguments = dict(values)
        if "key" in arguments:
            arguments["key"] = jax.random.key(arguments["key"])
        return self.row.call(self.function, **arguments, **self.row.options)

    def example(self, seed: int, extent: float):
        return self.row.draw(Draw(seed, extent))

    def batch(self, seed: int, extent: float, dtype=np.float64):
        examples = [self.example(seed + i, extent) for i in range(EXAMPLES)]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *examples)
        return jax.tree.map(lambda x: x.astype(dtype) if is_floating(x) else x, stacked)

    def of_floats(self, values):
        """The function of the floats among the arguments, to floats and to what else it gives."""
        leaves, tree = jax.tree.flatten(values)
        places = [place for place, leaf in enumerate(leaves) if is_floating(leaf)]

        def results(floats):
            replaced = dict(zip(places, floats, strict=True))
            all_leaves = [replaced.get(place, leaf) for place, leaf in enumerate(leaves)]
            found = jax.tree.leaves(self(jax.tree.unflatten(tree, all_leaves)))
            return [x for x in found if is_floating(x)], [x for x in found if not is_floating(x)]

        return results, [jnp.asarray(leaves[place]) for place in places]

    def derivatives(self, values):
        """Floating results, other results, and the gradients of the sum of the floating ones."""
        results, floats = self.of_floats(values)
        if "gradient" in self.row.but or not floats:
            return *results(floats), []
        found, pull_back, others = jax.vjp(results, floats, has_aux=True)
        (gradients,) = pull_back(jax.tree.map(jnp.ones_like, found))
        return found, others, gradients

    def forward(self, values):
        """The derivative along all ones."""
        results, floats = self.of_floats(values)
        ones = jax.tree.map(jnp.ones_like, floats)
        return jax.jvp(lambda floats: results(floats)[0], (floats,), (ones,))[1]


@pytest.fixture(scope="module", params=TABLE)
def case(request) -> Case:
    return Case(request.param)


def needs(*names: str):
    """A test of functions that have these properties."""

    def wrap(test):
        @functools.wraps(test)
        def of_case(case, **fixtures):
            for name in ("call", *names):
                if name in case.row.but:
                    pytest.skip(f"not that {PROPERTIES[name]}: {case.row.but[name]}")
            test(case, **fixtures)

        return of_case

    return wrap


def like(batch, one_for_each):
    """A batch filled with one value for each example."""
    column = np.reshape(one_for_each, (-1, *(1,) * (batch.ndim - 1)))
    return np.broadcast_to(column, batch.shape).astype(batch.dtype)


def assert_near(found, expected, tolerance: float, what: str):
    """Leaf by leaf and example by example, in units of the greatest magnitude or of 1."""
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        if not hasattr(y, "dtype") or np.asarray(y).dtype.kind in "US":
            assert np.array_equal(x, y), what
            continue
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        assert x.shape == y.shape, what
        for one, other in zip(x, y, strict=True):
            scale = max(1.0, float(np.max(np.abs(other), initial=0.0)))
            same = (one == other) | (np.isnan(one) & np.isnan(other))
            apart = np.abs(np.where(same, 0.0, one - other))
            worst = np.max(apart, initial=0.0) / scale
            assert worst <= tolerance, f"{what}: apart by {worst:.2g} of {scale:.2g}"


def assert_finite(arrays, what: str):
    for leaf in jax.tree.leaves(arrays):
        assert np.isfinite(np.asarray(leaf)).all(), f"{what} must be finite, got {leaf}"


@needs("jit")
def test_results_and_derivatives_are_finite_and_float32_is_near_float64(case):
    # Random numbers of another precision are other numbers.
    comparable = "float32" not in case.row.but and "key" not in case.example(0, 0.0)

    @drawn(max_examples=case.row.batches)
    @given(seed=st.integers(0, 2**20), extent=st.sampled_from([0.0, 0.3, 1.0]))
    def holds(seed, extent):
        expected, their_others, slopes = case.program(case.batch(seed, extent))
        found, others, gradients = case.program(case.batch(seed, extent, np.float32))
        if "finite" not in case.row.but:
            assert_finite((expected, their_others, found, others), "the result")
            assert_finite((slopes, gradients), "the gradient")
        if comparable:
            assert all(x.dtype == np.float32 for x in found), "the result must be float32"
            assert_near(found, expected, case.row.float32, "result")
            assert_near(others, their_others, 0.0, "result")
            assert_near(gradients, slopes, case.row.gradient32, "gradient")

    holds()


@needs("jit", "gradient", "forward")
def test_forward_mode_is_there(case):
    # JAX makes reverse mode out of it, so that their values need no comparison.
    jax.eval_shape(case.forward, case.example(0, 0.3))


@needs("jit")
def test_it_ends_whatever_the_floats(case):
    for dtype in (np.float64, np.float32):
        values = case.batch(0, 0.3, dtype)
        for name in (
            name for name in values if any(map(is_floating, jax.tree.leaves(values[name])))
        ):
            for hostile in np.split(np.array(HOSTILE), len(HOSTILE) // EXAMPLES):
                fill = lambda x: like(x, hostile) if is_floating(x) else x  # noqa: B023, E731
                changed = {**values, name: jax.tree.map(fill, values[name])}
                jax.block_until_ready(case.program(changed))


@needs("jit")
def test_of_nothing_but_nan_it_makes_nan(case):
    # Where values cannot be looked at, a training that has diverged must not look healthy.
    values = case.batch(0, 0.3)
    if any(map(is_floating, jax.tree.leaves(values))):
        fill = lambda x: np.full_like(x, np.nan) if is_floating(x) else x  # noqa: E731
        found = case.program(jax.tree.map(fill, values))[0]
        assert not found or any(np.isnan(x).any() for x in found)


@needs("jit")
def test_arguments_may_be_traced_one_at_a_time_beside_concrete_ones(case):
    values = jax.tree.map(jnp.asarray, case.example(0, 0.3))
    for name in values:
        jax.eval_shape(lambda one: case({**values, name: one}), values[name])  # noqa: B023


@needs()
def test_eagerly_it_gives_the_same_and_compiles_nothing_again(case):
    in_jax = "jit" not in case.row.but
    run = case.derivatives if in_jax else case
    with jax.debug_nans("finite" not in case.row.but):
        first = run(case.example(0, 1.0))
        with compilations() as again:
            second = run(case.example(1, 1.0))
    if in_jax:
        found = jax.tree.map(lambda *pair: np.stack(pair), first, second)
        expected = jax.tree.map(lambda x: x[:2], case.program(case.batch(0, 1.0)))
        assert_near(found, expected, SAME, "eagerly")
    if "again" not in case.row.but:
        assert not again, f"{len(again)} compilations at the second call, {sum(again):.2g} s"


@pytest.mark.parametrize("name", [name for name in TABLE if "jit" in TABLE[name].but])
def test_on_the_host_it_refuses_traced_arguments_by_name(name):
    case = Case(name)
    values = case.example(0, 0.0)
    with pytest.raises((TypeError, ValueError), match=names_of(case, values)):
        jax.jit(case)(values)


def names_of(case, values) -> str:
    """A pattern of the names of a function's arguments."""
    names = {
        *values,
        *inspect.signature(case.function).parameters,
        "distribution",
        "batch",
        "p",
        "q",
    }
    return "|".join(rf"\b{re.escape(name)}\b" for name in names)


FORMS = {
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2] if x.ndim else x,
    "backwards": lambda x: x[..., ::-1].copy()[..., ::-1] if x.ndim else x,
    "extended": lambda x: x.astype(np.longdouble) if is_floating(x) else x,
}


@needs("bytes")
@pytest.mark.parametrize("form", FORMS)
def test_bytes_in_any_order_give_the_same_or_one_clear_error(case, form):
    values = case.example(0, 0.3)
    seed = {"key": values.pop("key")} if "key" in values else {}
    expected = case({**seed, **values})  # first: once compiled, JAX reads any bytes as its own
    try:
        found = case({**seed, **jax.tree.map(lambda x: FORMS[form](np.asarray(x)), values)})
    except (TypeError, ValueError) as error:
        assert re.search(names_of(case, values), str(error)), f"which argument? {error}"
    else:
        one = functools.partial(jax.tree.map, lambda x: np.asarray(x)[None])
        assert_near(one(found), one(expected), 0.0, form)


@needs("jit", "mesh")
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_meshes_of_either_kind_may_surround_it(case, kind):
    # What a mesh refuses it refuses before compilation, which takes the most time; results over
    # two devices are those of `case.program`.
    mesh = mesh_of(kind)
    with jax.set_mesh(mesh):
        values = jax.device_put(case.batch(0, 0.3), NamedSharding(mesh, BATCH))
        jax.jit(case.over(mesh)).trace(values)
        if kind == "Auto" or "explicit" not in case.row.but:
            jax.jit(case.of_batch).trace(values)


LOSSES = [
    name
    for name, function in FUNCTIONS.items()
    if {"axis_name", "mesh"} & {*inspect.signature(function).parameters} == {"axis_name"}
]


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_of_all_pairs_is_the_same_sharded_eagerly_and_compiles_once(name):
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    batch = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    mesh, whole, shared = mesh_of("Explicit"), Case(name), Case(name)

    def by_mesh(**arguments):
        of_batch = [arguments.pop(name) for name in batch]
        return sharded(FUNCTIONS[name], mesh)(*of_batch, **arguments)

    shared.function = by_mesh
    first = shared.derivatives(whole.example(0, 0.3))
    with compilations() as again:
        second = shared.derivatives(whole.example(1, 0.3))
    found = jax.tree.map(lambda *pair: np.stack(pair), first, second)
    expected = jax.tree.map(lambda x: x[:2], whole.program(whole.batch(0, 0.3)))
    assert_near(found, expected, SAME, "on two devices")
    assert not again, f"{len(again)} compilations at the second call, {sum(again):.2g} s"
