"""A best-effort program for `processes`: plain JAX and Flax, which knows nothing of missile-jax.

`python process_be.py infer|train` reads lines of JSON: `{"run": "short" | "long"}` starts a loop,
`{"stop": true}` ends it and is answered with when each step ran, in seconds of the monotonic clock.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

# Rows of a batch by kind and length. On two cores a short step alone takes at most a fifth of what
# an LS request takes, a long one about twice as long as a request.
BATCHES = {"infer": {"short": 16, "long": 384}, "train": {"short": 6, "long": 96}}


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(4):
            x = nn.relu(nn.Dense(1024)(x))
        return nn.Dense(10)(x)


class Cnn(nn.Module):
    """As in Flax's MNIST example, with half of its features."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for features in (16, 32):
            x = nn.relu(nn.Conv(features, kernel_size=(3, 3))(x))
            x = nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))
        x = x.reshape((x.shape[0], -1))
        x = nn.relu(nn.Dense(128)(x))
        return nn.Dense(10)(x)


def inference(batch: int) -> Callable[[], None]:
    model, x = Mlp(), jax.random.normal(jax.random.key(0), (batch, 1024))
    variables = jax.jit(model.init)(jax.random.key(1), x)
    predict = jax.jit(lambda v, x: jnp.argmax(jnp.asarray(model.apply(v, x)), -1))

    def step() -> None:
        np.asarray(predict(variables, x))

    return step


def training(batch: int) -> Callable[[], None]:
    model, optimizer = Cnn(), optax.sgd(0.05, momentum=0.9)
    images = jax.random.normal(jax.random.key(0), (batch, 28, 28, 1))
    labels = jnp.arange(batch) % 10
    params = jax.jit(model.init)(jax.random.key(1), images)
    state = [params, optimizer.init(params)]

    @jax.jit
    def train(params, moments):
        def loss_of(params):
            logits = jnp.asarray(model.apply(params, images))
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, gradients = jax.value_and_grad(loss_of)(params)
        updates, moments = optimizer.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments, loss

    def step() -> None:
        *state[:], loss = train(*state)
        if not np.isfinite(float(loss)):
            raise FloatingPointError("the loss is no number")

    return step


def main() -> None:
    make = {"infer": inference, "train": training}[sys.argv[1]]
    steps = {length: make(batch) for length, batch in BATCHES[sys.argv[1]].items()}
    for step in steps.values():
        step()
    running = threading.Event()
    told: list[str] = []
    ran: list[tuple[float, float]] = []
    idle = threading.Condition()

    def loop() -> None:
        while True:
            running.wait()
            with idle:
                step = steps[told[0]]
                while running.is_set():
                    start = time.monotonic()
                    step()
                    ran.append((start, time.monotonic()))

    threading.Thread(target=loop, daemon=True).start()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if "run" in command:
            told[:] = [command["run"]]
            running.set()
            continue
        running.clear()
        with idle:
            print(json.dumps({"ran": ran}), flush=True)
            ran.clear()
    os._exit(0)  # The loop may be within a launch.


if __name__ == "__main__":
    main()
