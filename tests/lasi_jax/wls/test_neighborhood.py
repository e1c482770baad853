import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lasi_jax.wls.neighborhood import neighbor_index


def test_released_neighbourhoods(golden):
    np.testing.assert_array_equal(neighbor_index(golden.x.shape, golden.n), golden.neighbor_index)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shape=st.lists(st.integers(1, 6), min_size=2, max_size=4), n=st.integers(1, 24))
def test_equals_sorting_all_earlier_elements(brute_force, shape, n):
    shape = tuple(shape)
    np.testing.assert_array_equal(neighbor_index(shape, n), brute_force.neighbors(shape, n))


def test_offsets_of_an_interior_element():
    shape, n = (9, 9, 3), 10
    here = np.array([5, 5, 0])
    flat = np.ravel_multi_index(here, shape)
    offsets = np.stack(np.unravel_index(neighbor_index(shape, n)[flat], shape), -1) - here
    expected = "-1,0,0 0,-1,0 -2,0,0 -1,-1,0 -1,0,1 -1,1,0 0,-2,0 0,-1,1 -3,0,0 -2,-1,0"
    assert [",".join(map(str, offset)) for offset in offsets] == expected.split()
