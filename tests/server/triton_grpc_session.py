"""A session of NVIDIA's gRPC clients with the models of harness.py: `... HOST:PORT`.

Raises AssertionError where the server is not what it expects.
"""

import asyncio
import queue
import sys

import ml_dtypes
import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

X = np.arange(4, dtype=np.float32).reshape(1, 4)
SUM = [[6, 6, 6]]


def x(array=X):
    return [triton.InferInput("input", list(array.shape), "FP32").set_data_from_numpy(array)]


def error_of(call, *args):
    try:
        call(*args)
    except InferenceServerException as error:
        return error
    raise AssertionError("no error came")


def status_of(call, *args):
    return error_of(call, *args).status()


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


def infer_bfloat16(client):
    array = np.array([[1.5, -2], [0, 1]], ml_dtypes.bfloat16)
    tensor = triton.InferInput("input", [2, 2], "BF16").set_data_from_numpy(array)
    assert client.infer("brain", [tensor]).as_numpy("output").tolist() == [[3, -4], [0, 2]]
    words = triton.InferInput("input", [1, 4], "BYTES")
    words.set_data_from_numpy(np.array([[b"a", b"bc", b"", b"d"]], object))
    error = error_of(client.infer, "mlp", [words])
    assert error.status() == "StatusCode.INVALID_ARGUMENT"
    assert error.message() == "model 'mlp': input 'input' is BYTES, which no model takes"


def state_of(index, name):
    (state,) = [model.state for model in index.models if model.name == name]
    return state


def manage(client):
    assert state_of(client.get_model_repository_index(), "later") == "UNAVAILABLE"
    client.load_model("later")
    assert state_of(client.get_model_repository_index(), "later") == "READY"
    assert client.get_model_config("later").config.max_batch_size == 4
    assert output_of(client.infer("later", x())) == SUM
    client.unload_model("later")
    assert state_of(client.get_model_repository_index(), "later") == "UNAVAILABLE"
    assert status_of(client.infer, "later", x()) == "StatusCode.UNAVAILABLE"


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
        assert (await client.get_model_config("mlp")).config.max_batch_size == 4
        await client.load_model("later")
        assert state_of(await client.get_model_repository_index(), "later") == "READY"
        assert output_of(await client.infer("later", x())) == SUM
        await client.unload_model("later")
        assert not await client.is_model_ready("later")

        async def requests():
            for model in ("mlp", "nope", "mlp"):
                yield {"model_name": model, "inputs": x()}

        errors = [error async for _, error in client.stream_infer(requests())]
        assert sorted(error is None for error in errors) == [False, True, True]


def main() -> None:
    url = sys.argv[1]
    client = triton.InferenceServerClient(url)
    for part in (describe, infer, infer_bfloat16, manage, stream, share):
        part(client)
        print(part.__name__, "ok")
    client.close()
    asyncio.run(asynchronous(url))
    print("asynchronous ok")


if __name__ == "__main__":
    main()
