"""A session of NVIDIA's gRPC clients with the models of harness.py: `... HOST:PORT`.

Raises AssertionError where the server is not what it expects.
"""

import asyncio
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

X = np.arange(4, dtype=np.float32).reshape(1, 4)
SUM = [[6, 6, 6]]


def x(array=X):
    return [triton.InferInput("input", list(array.shape), "FP32").set_data_from_numpy(array)]


def status_of(call, *args):
    try:
        call(*args)
    except InferenceServerException as error:
        return error.status()
    raise AssertionError("no error came")


def output_of(result):
    return result.as_numpy("output").tolist()


def describe(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mlp", "1")
    assert not client.is_model_ready("nope")
    assert "system_shared_memory" in client.get_server_metadata().extensions
    assert client.get_model_metadata("mlp").inputs[0].datatype == "FP32"
    assert client.get_model_config("mlp").config.max_batch_size == 4
    assert "mlp" in [model.name for model in client.get_model_repository_index().models]
    assert client.get_inference_statistics("mlp").model_stats[0].name == "mlp"


def infer(client):
    result = client.infer("mlp", x(), request_id="abc", priority=1, timeout=10_000_000)
    assert (output_of(result), result.get_response().id) == (SUM, "abc")
    answers = queue.Queue()
    for i in range(8):
        client.async_infer(
            "mlp", x(), lambda result, error: answers.put((result, error)), request_id=str(i)
        )
    got = [answers.get(timeout=60) for _ in range(8)]
    assert all(error is None for _, error in got)
    assert {result.get_response().id for result, _ in got} == set("01234567")
    assert status_of(client.infer, "nope", x()) == "StatusCode.NOT_FOUND"
    assert status_of(client.infer, "mlp", x(X[:, :3])) == "StatusCode.INVALID_ARGUMENT"


def stream(client):
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for model in ("mlp", "nope", "mlp"):
        client.async_stream_infer(model, x(), enable_empty_final_response=True)
    got = [answers.get(timeout=60) for _ in range(3)]
    client.stop_stream()
    results = [result.get_response() for result, _ in got if result is not None]
    errors = [error.message() for _, error in got if error is not None]
    assert len(results) == 2
    assert all(result.parameters["triton_final_response"].bool_param for result in results)
    assert len(errors) == 1
    assert "nope" in errors[0]


def share(client):
    handle = shm.create_shared_memory_region("region", "/missile_grpc_session", 64)
    try:
        shm.set_shared_memory_region(handle, [X])
        client.register_system_shared_memory("region", "/missile_grpc_session", 64)
        assert client.get_system_shared_memory_status().regions["region"].byte_size == 64
        tensor = triton.InferInput("input", [1, 4], "FP32").set_shared_memory("region", 16)
        wanted = triton.InferRequestedOutput("output")
        wanted.set_shared_memory("region", 12, offset=32)
        result = client.infer("mlp", [tensor], outputs=[wanted])
        assert list(result.get_output("output").shape) == [1, 3]
        assert shm.get_contents_as_numpy(handle, np.float32, [1, 3], 32).tolist() == SUM
        client.unregister_system_shared_memory("region")
        assert not client.get_system_shared_memory_status().regions
    finally:
        shm.destroy_shared_memory_region(handle)


async def asynchronous(url):
    async with triton_aio.InferenceServerClient(url) as client:
        assert await client.is_server_ready()
        got = await asyncio.gather(*(client.infer("mlp", x()) for _ in range(8)))
        assert [output_of(result) for result in got] == [SUM] * 8

        async def requests():
            for model in ("mlp", "nope", "mlp"):
                yield {"model_name": model, "inputs": x()}

        errors = [error async for _, error in client.stream_infer(requests())]
        assert sorted(error is None for error in errors) == [False, True, True]


def main() -> None:
    url = sys.argv[1]
    client = triton.InferenceServerClient(url)
    for part in (describe, infer, stream, share):
        part(client)
        print(part.__name__, "ok")
    client.close()
    asyncio.run(asynchronous(url))
    print("asynchronous ok")


if __name__ == "__main__":
    main()
