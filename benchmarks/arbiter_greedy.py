"""A tenant that asks for more than it may have, for `arbiter_soak`: words are TIMES and CAP_BYTES.

Uploads and launches that are past the cap take turns, between others that are not. Says as JSON how
many were refused, and of the plugin's objects of each kind how many were made meanwhile, and how
many more there are at the end than before. It is plain JAX but for the last, so it runs where
`MISSILE_PJRT_STATISTICS` is 1.
"""

from __future__ import annotations

import gc
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from missile_jax.plugin.statistics import read_statistics

# What makes caches what they then stay.
_WARMUP = 20
_PATIENCE_S = 10.0
# A program of its own, which is loaded and dropped.
_PROGRAM_EVERY = 25


def main() -> None:
    times, over_bytes = int(sys.argv[1]), int(sys.argv[2]) + 2**20
    kept = jax.device_put(np.ones(1000, np.float32))
    step = jax.jit(lambda a, b: (a + b, (a * b).sum()), donate_argnums=0)
    fill = jax.jit(lambda value: jnp.full(over_bytes, value, jnp.int8))
    past_cap = (
        lambda: jax.device_put(np.zeros(over_bytes, np.int8)),
        lambda: fill(np.int8(1)),
    )

    def go(rounds: int) -> int:
        """How many were refused."""
        refused = 0
        for k in range(rounds):
            total, product = step(jax.device_put(np.ones(1000, np.float32)), kept)
            try:
                past_cap[k % 2]().block_until_ready()
            except jax.errors.JaxRuntimeError as error:
                refused += "RESOURCE_EXHAUSTED" in str(error)
            if k % _PROGRAM_EVERY == 0:
                jax.jit(lambda x, k=k: x + k).lower(kept).compile()(kept)
            if (float(total[0]), float(product)) != (2.0, 1000.0):
                raise ValueError(f"a step gave {total[0]} and {product}")
        return refused

    go(_WARMUP)
    gc.collect()
    before = objects()
    refused = go(times)
    gc.collect()
    end = time.monotonic() + _PATIENCE_S
    # What a launch holds is let go of by a thread of the plugin's, a moment after it.
    while grown(before, after := objects()) and time.monotonic() < end:
        time.sleep(0.01)
    left = dict.fromkeys(after, 0) | grown(before, after)
    made = {kind: after[kind][0] - before[kind][0] for kind in after}
    print(json.dumps({"over_cap": times, "refused": refused, "made": made, "left": left}))


def objects() -> dict[str, tuple[int, int]]:
    """Of each kind, how many were made and how many there are. See statistics.h.

    Raises RuntimeError if the plugin does not count.
    """
    counts = read_statistics()
    if counts is None:
        raise RuntimeError("the plugin counts nothing, MISSILE_PJRT_STATISTICS must be 1")
    kinds = [name.removesuffix("_made") for name in counts if name.endswith("_made")]
    return {
        kind: (counts[f"{kind}_made"], counts[f"{kind}_made"] - counts[f"{kind}_ended"])
        for kind in kinds
    }


def grown(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> dict[str, int]:
    """The kinds of which there are more now."""
    more = {kind: after[kind][1] - before[kind][1] for kind in after}
    return {kind: by for kind, by in more.items() if by > 0}


if __name__ == "__main__":
    main()
