"""Staging blocks: rows are stacked, padded, aligned, and freed with their last view."""

import gc
import platform
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from missile_jax import _native

DTYPES = st.sampled_from(["float32", "int8", "bool", "float16", "complex64", "int64"])


@pytest.mark.smoke
@given(
    dtype=DTYPES,
    trailing=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=5),
    padding=st.integers(0, 3),
)
def test_rows_are_stacked_in_order_and_padded_with_zeros(dtype, trailing, counts, padding):
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 2, (n, *trailing)).astype(dtype) for n in counts]
    rows = sum(counts) + padding
    stacked = _native.stack_rows(parts, rows)
    zeros = np.zeros((padding, *trailing), dtype)
    np.testing.assert_array_equal(stacked, np.concatenate([*parts, zeros]))
    assert stacked.dtype == dtype
    assert stacked.ctypes.data % _native.STAGING_ALIGNMENT == 0


def test_the_copy_is_independent_of_its_source():
    source = np.ones((2, 3), np.float32)
    stacked = _native.stack_rows([source], 2)
    source[:] = 7
    assert (stacked == 1).all()


def test_blocks_live_as_long_as_their_last_view():
    gc.collect()
    blocks, size = _native.staging_blocks(), _native.staging_bytes()
    view = _native.stack_rows([np.ones((4, 8), np.float32)], 8)[1:2]
    assert _native.staging_blocks() == blocks + 1
    assert _native.staging_bytes() == size + 8 * 8 * 4
    del view
    assert (_native.staging_blocks(), _native.staging_bytes()) == (blocks, size)


@pytest.mark.parametrize(
    ("parts", "rows", "message"),
    [
        ([], 1, "no parts"),
        ([np.float32(1)], 1, "first axis"),
        ([np.ones((3, 2))], 2, "more rows"),
        ([np.ones((1, 2)), np.ones((1, 3))], 2, "differ"),
        ([np.ones((1, 2)), np.ones((1, 2), np.float32)], 2, "differ"),
        ([np.ones((4, 4))[:, ::2]], 4, "contiguous"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, rows, message):
    blocks = _native.staging_blocks()
    with pytest.raises(ValueError, match=message):
        _native.stack_rows(parts, rows)
    assert _native.staging_blocks() == blocks


_FAULTS = """
import resource
import numpy as np
import missile_jax as mj

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(64 << 20, np.uint8)  # above what glibc would keep by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
given_back = faults()
mj.Runtime().close()
faults()
print(given_back, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked to")
def test_a_runtime_keeps_freed_memory():
    # A child process, since the heap's behaviour is changed for good.
    run = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    given_back, kept = map(int, run.stdout.split())
    assert kept < given_back / 100
