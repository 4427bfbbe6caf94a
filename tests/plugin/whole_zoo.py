"""The whole zoo through the plugin: minutes, so `make soak` runs it, and `make test` one model."""

import plugin_worker as worker
import pytest


def compare(process, names: list[str]) -> None:
    # Processes of their own: a Runtime turns on JAX's persistent cache, and XLA on CPUs cannot
    # serialize a program again that comes from there, as another test's programs are to be.
    bare, wrapped = (process(115, w, tenant="zoo")(worker.models, names) for w in (False, True))
    outputs = {key for key in bare if not key.endswith("segments")}
    # Segments are cut by measured durations, so their number may differ, and bits with it.
    same = {key for key in outputs if bare[f"{key} segments"] == wrapped[f"{key} segments"]}
    assert {key: wrapped[key] for key in same} == {key: bare[key] for key in same}
    for key in outputs - same:
        assert [x[:2] for x in wrapped[key]] == [x[:2] for x in bare[key]]
    assert same, "no plan was the same"


@pytest.mark.parametrize("name", ["squeezenet", "mobilenet", "efficientnet", "resnet50", "minilm"])
def test_the_zoo_runs_whole_and_in_segments(process, name):
    compare(process, [name])
