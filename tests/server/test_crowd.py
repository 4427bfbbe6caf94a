"""Who waits for others to share a batch with, and for how long."""

import asyncio
import dataclasses

import numpy as np
from harness import mlp

from missile_jax import Runtime
from missile_jax.server.codec import InferRequest
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.grpc.crowd import CROWDED_CALLS, TURNS, Crowd, in_some_turns


def test_one_who_is_alone_waits_for_nobody():
    crowd = Crowd()
    assert [crowd.soon(1) for _ in range(3)] == [None] * 3


def test_after_two_at_once_there_may_be_two_again_for_some_calls():
    crowd = Crowd()
    assert crowd.soon(2) is in_some_turns
    alone = [crowd.soon(1) for _ in range(CROWDED_CALLS)]
    assert alone == [in_some_turns] * (CROWDED_CALLS - 1) + [None]


def test_requests_that_reach_a_loop_turn_by_turn_share_a_batch(tmp_path):
    model = dataclasses.replace(mlp(), buckets=(1, TURNS), priority="latency")

    async def turn_by_turn(plane: Dataplane) -> list[np.ndarray]:
        pending = []
        for k in range(TURNS):
            request = InferRequest({"input": np.full((1, 4), k, np.float32)})
            pending.append(plane.submit("mlp", request, soon=in_some_turns))
            assert not pending[0].done
            await asyncio.sleep(0)
        return [(await one.response()).outputs["output"] for one in pending]

    with Runtime(cache_dir=tmp_path) as runtime:
        runtime.load(model)
        answers = asyncio.run(turn_by_turn(Dataplane(runtime)))
        assert runtime.stats()["models"]["mlp"]["batch_rows"] == {TURNS: 1}
        want = [runtime.infer("mlp", np.full((1, 4), k, np.float32)) for k in range(TURNS)]
        np.testing.assert_allclose(answers, want, rtol=1e-6)
