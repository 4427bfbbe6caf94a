"""Serve a Flax model over HTTP.

python examples/01_serve.py
curl localhost:8000/v2/models/classify/infer -d '{"inputs": [{"name": "input",
    "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}'
"""

import flax.linen as nn
import jax
import numpy as np

import missile_jax as mj


class Classifier(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Dense(32)(x)))


def models() -> list[mj.Model]:
    example = np.zeros((1, 4), np.float32)
    params = Classifier().init(jax.random.key(0), example)
    return [
        mj.Model(
            "classify",
            Classifier(),
            params,
            example=example,
            priority="latency",
            slo=mj.SLO(deadline_ms=20),
            buckets=[1, 8],
        )
    ]


if __name__ == "__main__":
    mj.serve(models(), http_port=8000)
