"""Programs for a GPU compile through the wrapper as they do without it, where there is no GPU."""

import plugin_worker as worker
import pytest
from plugins import H100_FILES, Process, environment, start

pytestmark = pytest.mark.h100


def test_resnet50_and_a_kernel_have_the_same_memory_analysis():
    results = []
    for wrapped in (False, True):
        env = environment(112 if wrapped else None, wrapped)
        # JAX's own search for plugins starts none, and finds the packages of the CUDA plugin.
        env |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(H100_FILES)}
        with start(env) as pool:
            results.append(Process(pool)(worker.compile_for_h100, wrapped))
    bare, wrapped = results
    assert wrapped == bare
    assert wrapped["platform"][0] == "gpu"
    assert wrapped["resnet50"][2] > 0
    assert any("triton" in kernel for kernel in wrapped["pallas"][4])
