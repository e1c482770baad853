"""What every public function holds to, whatever it computes: `table` has a row for each.

`pytest -m slow tests/properties`, in about five minutes on two cores. The values of an example come
from a seed and an extent, which a failure shows, and by which it can be made again.
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
HOSTILE = (np.nan, np.inf, -np.inf, 1e30, 1e-40, 0.0)

# Compiled once, run a few times: not worth optimizing.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
drawn = functools.partial(settings, derandomize=True, deadline=None, database=None)


def test_every_public_function_has_a_row_and_no_row_is_left_over():
    assert sorted(FUNCTIONS) == sorted(TABLE)
    assert all(set(row.but) <= set(PROPERTIES) for row in TABLE.values())


def is_floating(leaf) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


class Case:
    """A public function, its row, and its one compiled program."""

    def __init__(self, name: str):
        self.name, self.row, self.function = name, TABLE[name], FUNCTIONS[name]
        self.program = jit(jax.vmap(self.derivatives))
        getattr(self.row.call, "prepare", tuple)()

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

    def derivatives(self, values, both_modes: bool = True):
        """Floating results, other results, gradients, and the derivative along all ones twice."""
        leaves, tree = jax.tree.flatten(values)
        places = [place for place, leaf in enumerate(leaves) if is_floating(leaf)]

        def results(floats):
            replaced = dict(zip(places, floats, strict=True))
            all_leaves = [replaced.get(place, leaf) for place, leaf in enumerate(leaves)]
            found = jax.tree.leaves(self(jax.tree.unflatten(tree, all_leaves)))
            return [x for x in found if is_floating(x)], [x for x in found if not is_floating(x)]

        def ones(arrays):
            return jax.tree.map(jnp.ones_like, arrays)

        floats = [jnp.asarray(leaves[place]) for place in places]
        found, others = results(floats)
        if "gradient" in self.row.but or not floats or not found:
            return found, others, [], []
        found, pull_back, others = jax.vjp(results, floats, has_aux=True)
        (gradients,) = pull_back(ones(found))
        along = [sum(jnp.sum(gradient) for gradient in gradients)]
        if both_modes and "forward" not in self.row.but:
            _, tangents, _ = jax.jvp(results, (floats,), (ones(floats),), has_aux=True)
            along.append(sum(jnp.sum(tangent) for tangent in tangents))
        return found, others, gradients, along


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in TABLE],
)
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
def test_results_and_derivatives_are_finite_and_both_modes_agree(case):
    @drawn(max_examples=case.row.batches)
    @given(seed=st.integers(0, 2**20), extent=st.sampled_from([0.0, 0.3, 1.0]))
    def holds(seed, extent):
        for dtype in (np.float64, np.float32):
            found, others, gradients, along = case.program(case.batch(seed, extent, dtype))
            if "finite" not in case.row.but:
                assert_finite((found, others), f"the result in {dtype.__name__}")
                assert_finite(gradients, f"the gradient in {dtype.__name__}")
            if len(along) == 2 and dtype == np.float64:
                summed = sum(np.abs(np.asarray(g)).reshape(EXAMPLES, -1).sum(1) for g in gradients)
                gap = np.abs(np.asarray(along[0]) - np.asarray(along[1]))
                assert (gap <= 1e-6 * (1.0 + summed)).all(), f"modes: apart by {gap} of {summed}"

    holds()


@needs("jit", "float32")
def test_float32_is_near_float64(case):
    if "key" in case.example(0, 0.0):
        pytest.skip("random numbers of another precision are other numbers")

    @drawn(max_examples=case.row.batches)
    @given(seed=st.integers(0, 2**20), extent=st.sampled_from([0.0, 0.3, 1.0]))
    def holds(seed, extent):
        found, others, gradients, _ = case.program(case.batch(seed, extent, np.float32))
        expected, their_others, slopes, _ = case.program(case.batch(seed, extent))
        assert all(x.dtype == np.float32 for x in found), "the result must be float32"
        assert_near(found, expected, case.row.float32, "result")
        assert_near(others, their_others, 0.0, "result")
        assert_near(gradients, slopes, case.row.gradient32, "gradient")

    holds()


@needs("jit")
def test_it_ends_whatever_the_floats(case):
    for dtype in (np.float64, np.float32):
        values = case.batch(0, 0.3, dtype)
        for name in values:
            for hostile in HOSTILE:
                fill = lambda x: np.full_like(x, hostile) if is_floating(x) else x  # noqa: B023, E731
                changed = {**values, name: jax.tree.map(fill, values[name])}
                jax.block_until_ready(case.program(changed))


@needs("jit")
def test_arguments_may_be_traced_one_at_a_time_beside_concrete_ones(case):
    values = jax.tree.map(jnp.asarray, case.example(0, 0.3))
    for name in values:
        jax.eval_shape(lambda one: case({**values, name: one}), values[name])  # noqa: B023


@needs()
def test_eagerly_it_gives_the_same_and_compiles_nothing_again(case):
    in_jax = "jit" not in case.row.but
    run = functools.partial(case.derivatives, both_modes=False) if in_jax else case
    with jax.debug_nans("finite" not in case.row.but):
        first = run(case.example(0, 1.0))
        with compilations() as again:
            second = run(case.example(1, 1.0))
    if in_jax:
        found = jax.tree.map(lambda *pair: np.stack(pair), first[:3], second[:3])
        expected = jax.tree.map(lambda x: x[:2], case.program(case.batch(0, 1.0))[:3])
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


def mesh_of(kind: str):
    return jax.make_mesh((2,), ("batch",), axis_types=(getattr(AxisType, kind),))


@needs("jit", "mesh")
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_on_two_devices_it_gives_the_same(case, kind):
    mesh, spec = mesh_of(kind), PartitionSpec("batch")
    of_one = jax.vmap(case.derivatives)
    of_share = jax.shard_map(of_one, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=True)
    batch = case.batch(0, 0.3)
    with jax.set_mesh(mesh):
        values = jax.device_put(batch, NamedSharding(mesh, spec))
        # What a mesh may refuse it refuses before compilation, which takes the most time.
        if kind == "Auto" or "explicit" not in case.row.but:
            jit(of_one).lower(values)
        by_share = jit(of_share).lower(values)
        if kind == "Explicit":
            assert_near(by_share.compile()(values), case.program(batch), SAME, "shard_map")


LOSSES = [
    name
    for name, function in FUNCTIONS.items()
    if {"axis_name", "mesh"} & {*inspect.signature(function).parameters} == {"axis_name"}
]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in LOSSES]
)
def test_a_loss_of_all_pairs_is_the_same_sharded_eagerly_and_compiles_once(name):
    parameters = inspect.signature(FUNCTIONS[name]).parameters.values()
    batch = [one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    mesh, whole, shared = mesh_of("Explicit"), Case(name), Case(name)

    def by_mesh(**arguments):
        of_batch = [arguments.pop(name) for name in batch]
        return sharded(FUNCTIONS[name], mesh)(*of_batch, **arguments)

    shared.function = by_mesh
    first = shared.derivatives(whole.example(0, 0.3), both_modes=False)
    with compilations() as again:
        second = shared.derivatives(whole.example(1, 0.3), both_modes=False)
    found = jax.tree.map(lambda *pair: np.stack(pair), first[:3], second[:3])
    expected = jax.tree.map(lambda x: x[:2], whole.program(whole.batch(0, 0.3))[:3])
    assert_near(found, expected, SAME, "on two devices")
    assert not again, f"{len(again)} compilations at the second call, {sum(again):.2g} s"
