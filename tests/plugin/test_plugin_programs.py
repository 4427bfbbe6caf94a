"""JAX programs through the wrapper give, bit for bit, what they give without."""

import numpy as np
import plugin_worker as worker
import pytest
from plugins import CPU_MINORS


@pytest.fixture(scope="module", params=CPU_MINORS)
def minor(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture(scope="module")
def both(minor, process):
    names = list(worker.PROGRAMS)
    return [process(minor, wrapped)(worker.run, names) for wrapped in (False, True)]


def test_it_is_the_same_platform(minor, process):
    bare, wrapped = (process(minor, w)(worker.describe) for w in (False, True))
    assert bare == wrapped
    assert wrapped["backend"] == "cpu"


@pytest.mark.parametrize("name", worker.PROGRAMS)
def test_results_are_the_same_to_the_bit(name, both):
    bare, wrapped = both
    assert wrapped[name] == bare[name]


def test_programs_succeed(both):
    assert not {name: result for name, result in both[1].items() if isinstance(result, str)}


def test_uploads_went_into_the_arena(minor, both, process):
    counts = process(minor, True)(worker.statistics)
    assert counts["uploads_placed"] > 100
    assert counts["uploads_linked_bytes"] > 8 << 20
    assert counts["views_kept_from_donation"] > 0
    assert counts["uploads_passed_view"] == counts["uploads_passed_full"] == 0


def test_uploads_are_copies_once_they_are_ready(minor, process):
    # The bare plugins share some sources, also where they are asked not to.
    assert process(minor, True)(worker.mutated_sources, 20) == 20


def test_host_code_of_a_program_runs_where_it_does_on_the_bare_plugin_or_is_given_handlers(
    minor, process
):
    bare, wrapped = (process(minor, w)(worker.host_callbacks) for w in (False, True))
    no_handler = "JaxRuntimeError: NOT_FOUND: No FFI handler registered for xla_"
    # jaxlib gives what these need to its own CPU client alone.
    for name in ("pure", "io", "debug"):
        assert wrapped[name] == bare[name]
        assert wrapped[name].startswith(f"{no_handler}ffi_python_cpu_callback")
    # The wrapper gives this one to a plugin that takes it: 0.81's FFI is older than jaxlib's.
    assert bare["buffer"].startswith(f"{no_handler}buffer_python_cpu_callback")
    assert wrapped["buffer"] == ([3, 3, 3] if minor == 115 else bare["buffer"])


def test_custom_calls_of_jax_run_on_the_plugin(process):
    on_plugin = process(115, True)(worker.linear_algebra)
    x = worker._random(6, 6)
    np.testing.assert_allclose(on_plugin[0], np.linalg.svd(x)[1], rtol=1e-5)
    np.testing.assert_allclose(on_plugin[1], np.linalg.inv(x), rtol=1e-4, atol=1e-5)
