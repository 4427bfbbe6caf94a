"""Two tenants of one process on the CUDA plugin, latency-sensitive and best-effort. Prints JSON."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from missile_jax.plugin.register import register
from missile_jax.plugin.statistics import read_statistics

CAP = 64 << 20

register("missile", {"missile_class": "latency", "missile_tenant": "ls"})
register(
    "spare",
    {"missile_class": "best_effort", "missile_tenant": "be", "missile_memory": str(CAP)},
)
jax.config.update("jax_platforms", "missile,spare,cpu")

ls, be = jax.devices("missile")[0], jax.devices("spare")[0]
x = np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)
double = jax.jit(lambda a: jnp.tanh(a @ a) + 1)
donate = jax.jit(lambda a: a * 2, donate_argnums=0)
on_ls, on_be = jax.device_put(x, ls), jax.device_put(x, be)
results = [np.asarray(double(v)) for v in (on_ls, on_be)]
donated = [np.asarray(donate(jax.device_put(x, d))) for d in (ls, be)]
try:
    jax.device_put(np.zeros(CAP, np.float32), be)
    refused = ""
except Exception as error:  # noqa: BLE001 - shown
    refused = str(error)
for _ in range(100):  # Uploads that come while launches read what was uploaded before.
    y = double(jax.device_put(x, be))
print(
    json.dumps(
        {
            "platforms": [ls.platform, be.platform, jax.devices("gpu")[0].platform],
            "same": bool((results[0] == results[1]).all()),
            "error": float(np.abs(results[0] - (np.tanh(x @ x) + 1)).max()),
            "donated": all(bool((d == x * 2).all()) for d in donated),
            "again": bool((np.asarray(y) == results[1]).all()),
            "refused": refused,
            "limit": (be.memory_stats() or {}).get("bytes_limit"),
            "placed": (read_statistics() or {}).get("uploads_placed"),
        }
    )
)
