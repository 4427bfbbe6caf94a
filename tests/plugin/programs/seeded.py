"""Runs programs of others as they are, with NumPy's numbers seeded: `seeded.py PROGRAM...`.

What they print stays as it is. Behind each is a line of JSON: a digest of every array that is there
at its end, which is the same to the bit where the program did the same.
"""

import gc
import hashlib
import json
import runpy
import sys

import jax
import numpy as np


def main() -> None:
    for program in sys.argv[1:]:
        np.random.seed(0)  # noqa: NPY002 - what the programs use
        sys.argv = [program]
        # Held while its arrays are looked at.
        held = runpy.run_path(program, run_name="__main__")
        gc.collect()
        print(json.dumps(sorted(digest(array) for array in jax.live_arrays())))
        held.clear()


def digest(array: jax.Array) -> str:
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    host = np.asarray(array)
    return f"{host.dtype}{list(host.shape)} {hashlib.sha256(host.tobytes()).hexdigest()}"


if __name__ == "__main__":
    main()
