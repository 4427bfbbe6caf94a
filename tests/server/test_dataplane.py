"""The dataplane without a transport, as another front end would use it."""

import asyncio
import dataclasses

import numpy as np
import pytest
from harness import mlp

from missile_jax import DeadlineExceededError, ModelNotFoundError, Runtime
from missile_jax.server.codec import InferRequest, InferResponse
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.tensors import CodecError


@pytest.fixture(scope="module")
def dataplane(runtime) -> Dataplane:
    return Dataplane(runtime)


def gate_request(value: float, **options) -> InferRequest:
    return InferRequest({"input": np.full((1, 1), value, np.float32)}, **options)


async def infer(dataplane: Dataplane, request: InferRequest, version: str = "") -> InferResponse:
    return await dataplane.submit("gate", request, version).response()


def test_infer(dataplane):
    response = asyncio.run(infer(dataplane, gate_request(3, id="7"), "1"))
    assert response.id == "7"
    assert response.outputs["output"].tolist() == [[6]]


@pytest.mark.parametrize(
    "call",
    [
        lambda plane: plane.model_ready("mlp", "2"),
        lambda plane: plane.model_metadata("nope"),
        lambda plane: plane.model_config("nope"),
        lambda plane: plane.statistics("nope"),
        lambda plane: plane.submit("nope", gate_request(1)),
        lambda plane: plane.submit("gate", gate_request(1), "2"),
    ],
)
def test_what_is_not_there_is_not_found(dataplane, call):
    with pytest.raises(ModelNotFoundError):
        call(dataplane)


def test_an_output_that_is_not_there_is_refused_before_anything_runs(dataplane):
    with pytest.raises(CodecError, match="no output 'no'; it has 'output'"):
        dataplane.submit("gate", gate_request(1, outputs={"no": True}))


def test_cancelling_the_waiter_cancels_the_request(dataplane, runtime, gate):
    def cancelled() -> int:
        return runtime.stats()["models"]["gate"]["cancel_count"]

    async def leave() -> None:
        gate.shut()
        first = dataplane.submit("gate", gate_request(1))
        second = asyncio.create_task(infer(dataplane, gate_request(2)))
        await asyncio.to_thread(gate.wait_entered)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        gate.open()
        assert (await first.response()).outputs["output"].tolist() == [[2]]

    before = cancelled()
    asyncio.run(leave())
    assert cancelled() == before + 1


def test_a_timeout_is_a_deadline(dataplane, gate):
    async def late() -> None:
        gate.shut()
        with pytest.raises(DeadlineExceededError):
            await infer(dataplane, gate_request(1, timeout_us=1000))
        gate.wait_entered()
        gate.open()

    asyncio.run(late())


def test_an_answer_that_comes_after_the_loop_is_gone_is_dropped(dataplane, runtime, gate):
    async def leave() -> None:
        asyncio.get_running_loop().create_task(infer(dataplane, gate_request(1)))
        await asyncio.to_thread(gate.wait_entered)

    gate.shut()
    asyncio.run(leave())
    gate.open()
    assert runtime.run_until_idle()


def test_ready_until_the_runtime_closes(tmp_path):
    with Runtime(cache_dir=tmp_path) as runtime:
        runtime.load(mlp())
        dataplane = Dataplane(runtime)
        assert dataplane.ready()
        runtime.close()
        assert not dataplane.ready()


def short_requests(runtime, model) -> dict[int, int]:
    """How many batches of so many rows there were, of four requests found in one turn of a loop."""

    async def four(plane: Dataplane) -> list:
        requests = [InferRequest({"input": np.full((1, 4), k, np.float32)}) for k in range(4)]
        soon = asyncio.get_running_loop().call_soon
        pending = [plane.submit(model.name, r, soon=soon) for r in requests]
        return [(await p.response()).outputs["output"] for p in pending]

    runtime.load(model)
    answers = asyncio.run(four(Dataplane(runtime)))
    want = [runtime.infer(model.name, np.full((1, 4), k, np.float32)) for k in range(4)]
    np.testing.assert_allclose(answers, want, rtol=1e-6)
    rows = runtime.stats()["models"][model.name]["batch_rows"]
    return {n: count - 4 * (n == 1) for n, count in rows.items() if count > 4 * (n == 1)}


def test_short_requests_that_a_loop_finds_in_one_turn_share_batches(tmp_path):
    model = dataclasses.replace(mlp(), buckets=(1, 2, 3), priority="latency")
    with Runtime(cache_dir=tmp_path) as runtime:
        assert short_requests(runtime, model) == {3: 1, 1: 1}
        alone = dataclasses.replace(model, name="alone", buckets=(1,))
        assert short_requests(runtime, alone) == {1: 4}


def test_a_request_that_was_cancelled_before_its_turn_runs_nothing(tmp_path):
    model = dataclasses.replace(mlp(), buckets=(1, 2), priority="latency")
    with Runtime(cache_dir=tmp_path) as runtime:
        runtime.load(model)
        later = []
        x = {"input": np.zeros((1, 4), np.float32)}
        first, second = (runtime.submit_tensors("mlp", x, soon=later.append) for _ in range(2))
        assert not first.done()
        assert not second.done()
        assert first.cancel()
        for call in later:
            call()
        assert second.result(0)["output"].shape == (1, 3)
        assert runtime.stats()["models"]["mlp"]["batch_rows"] == {1: 1}
