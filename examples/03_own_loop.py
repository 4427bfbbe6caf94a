"""Drive the runtime from a loop of your own: no thread but yours."""

import jax
import numpy as np

import missile_jax as mj


def deep(params, x):
    for _ in range(200):
        x = jax.nn.tanh(x @ params)
    return x


def main() -> None:
    example = np.ones((8, 256), np.float32)
    runtime = mj.Runtime(quantum_ms=1.0)
    runtime.load("deep", model=deep, params=np.eye(256, dtype=np.float32), example=example,
                 buckets=[8])  # fmt: skip
    runtime.load("quick", model=lambda p, x: x * p, params=np.float32(2), example=example,
                 priority="latency", buckets=[8])  # fmt: skip

    # While there is latency-sensitive traffic, best-effort models run in short segments.
    runtime.infer("quick", example)
    background = runtime.submit("deep", example)
    runtime.step()
    urgent = runtime.submit("quick", example)
    runtime.step()
    print("after two steps: urgent", urgent.done(), "- background", background.done())
    runtime.run_until_idle()
    print("idle: background", background.done(), background.result().shape)
    runtime.close()


if __name__ == "__main__":
    main()
