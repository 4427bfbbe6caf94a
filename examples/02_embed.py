"""Use the runtime inside a program: many threads, futures, deadlines."""

import jax
import numpy as np

import missile_jax as mj


def score(params, x):
    return jax.nn.sigmoid(x @ params)


def main() -> None:
    weights = np.linspace(0, 0.1, 8, dtype=np.float32)
    example = np.ones((1, 8), np.float32)
    with mj.Runtime() as runtime:
        runtime.load("score", model=score, params=weights, example=example, priority="latency")
        print("blocking:", runtime.infer("score", example))

        futures = [runtime.submit("score", example * k) for k in range(4)]
        print("futures: ", [round(float(f.result()[0]), 3) for f in futures])

        try:
            runtime.infer("score", np.ones((1, 9), np.float32))
        except mj.InvalidInputError as error:
            print("refused: ", error)


if __name__ == "__main__":
    main()
