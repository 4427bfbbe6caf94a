"""A latency-sensitive server for `processes`: SqueezeNet, one request at a time.

Reads lines of JSON. `{"back_to_back": N}` is answered with the median time of a request,
`{"arrivals_s": [...]}` with the latency of each, counted from when it was due, and with when the
first was due and the last done, in seconds of the monotonic clock.
"""

import json
import sys
import time

import jax
import numpy as np

import missile_jax.models as zoo


def main() -> None:
    net = zoo.load("squeezenet")
    variables = jax.device_put(net.variables)
    classify = jax.jit(lambda v, x: net.module.apply(v, x))
    photos = [net.preprocess(photo) for photo in zoo.photos().values()]

    def answer(k: int) -> None:
        np.asarray(classify(variables, photos[k % len(photos)]))

    for k in range(10):
        answer(k)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if "back_to_back" in command:
            times = []
            for k in range(command["back_to_back"]):
                start = time.monotonic()
                answer(k)
                times.append(time.monotonic() - start)
            print(json.dumps({"service_s": float(np.median(times))}), flush=True)
            continue
        arrivals_s, latencies_s = command["arrivals_s"], []
        start = time.monotonic()
        for k, arrival in enumerate(arrivals_s):
            while (wait := start + arrival - time.monotonic()) > 0:
                time.sleep(wait)
            answer(k)
            latencies_s.append(time.monotonic() - start - arrival)
        end = time.monotonic()
        told = {"latencies_s": latencies_s, "start_s": start + arrivals_s[0], "end_s": end}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
