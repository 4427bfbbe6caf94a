"""benchmarks.whole_models: whole models come from their checkpoints and leave for others."""

from contextlib import closing
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from benchmarks.whole_models import Stored, WholeModels, compiled
from missile_jax import Model

X = np.ones((1, 4), np.float32)


def scaled(params: dict, x: np.ndarray) -> np.ndarray:
    return x * params["scale"]


def test_a_called_model_comes_and_the_least_recently_used_one_leaves(tmp_path: Path) -> None:
    models = {}
    whole = compiled(Model("any", scaled, {"scale": X}, example=X))
    for k, name in enumerate("abc"):
        scale = np.full((1, 4), k, np.float32)
        save_file({"scale": scale}, tmp_path / f"{name}.safetensors")
        models[name] = Stored(whole, tmp_path / f"{name}.safetensors", scale.nbytes)
    with closing(WholeModels(models, limit_bytes=2 * X.nbytes)) as system:

        def loads(name: str) -> int:
            (answer,) = system.submit(name, X).result()
            np.testing.assert_array_equal(answer, np.full((1, 4), "abc".index(name)))
            return system.loads

        assert [loads(name) for name in "abac"] == [1, 2, 2, 3]
        assert loads("a") == 3
        assert loads("b") == 4
        assert system.busy_s > 0
