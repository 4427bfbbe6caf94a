"""A session of NVIDIA's HTTP clients with the models of harness.py: `triton_session.py HOST:PORT`.

Raises AssertionError where the server is not what it expects.
"""

import asyncio
import sys

import ml_dtypes
import numpy as np
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import InferenceServerException

X = np.arange(4, dtype=np.float32).reshape(1, 4)


def tensor(name, array, datatype, binary):
    return triton.InferInput(name, list(array.shape), datatype).set_data_from_numpy(
        array, binary_data=binary
    )


def x(binary=True, array=X):
    return [tensor("input", array, "FP32", binary)]


def error_of(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except InferenceServerException as error:
        return error
    raise AssertionError("no error came")


def status_of(call, *args, **kwargs):
    error = error_of(call, *args, **kwargs)
    return int(error.status()) if error.message() else 0


def describe(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mlp")
    assert client.is_model_ready("mlp", "1")
    assert not client.is_model_ready("mlp", "2")
    assert not client.is_model_ready("nope")
    assert "statistics" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("mlp")
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}]
    assert client.get_model_config("mlp")["max_batch_size"] == 4
    assert "mlp" in [model["name"] for model in client.get_model_repository_index()]


def infer(client):
    for binary_in in (True, False):
        for outputs in (
            None,
            [triton.InferRequestedOutput("output", binary_data=True)],
            [triton.InferRequestedOutput("output", binary_data=False)],
        ):
            result = client.infer("mlp", x(binary_in), outputs=outputs, request_id="abc")
            np.testing.assert_array_equal(result.as_numpy("output"), [[6, 6, 6]])
            assert result.get_response()["id"] == "abc"
    batch = client.infer("mlp", x(array=np.ones((3, 4), np.float32)))
    assert batch.as_numpy("output").shape == (3, 3)
    nans = client.infer("mlp", x(binary=False, array=np.full((1, 4), np.nan, np.float32)))
    assert np.isnan(nans.as_numpy("output")).all()
    assert client.infer("mlp", x(), priority=1, timeout=10_000_000).as_numpy("output") is not None
    for how in ("gzip", "deflate"):
        packed = client.infer(
            "mlp", x(), request_compression_algorithm=how, response_compression_algorithm=how,
            request_id="a" * 2000,
        )  # fmt: skip
        np.testing.assert_array_equal(packed.as_numpy("output"), [[6, 6, 6]])
    waiting = [client.async_infer("mlp", x(), request_id=str(i)) for i in range(8)]
    assert [w.get_result().get_response()["id"] for w in waiting] == [str(i) for i in range(8)]


def infer_pair(client):
    inputs = [
        tensor("ids", np.arange(6, dtype=np.int32).reshape(2, 3), "INT32", True),
        tensor("x", np.array([[0.5, 1], [2, 3]], np.float16), "FP16", False),
    ]
    result = client.infer("pair", inputs)
    assert result.as_numpy("half").dtype == ml_dtypes.bfloat16
    assert result.as_numpy("half").tolist() == [[0.5, 1], [2, 3]]
    assert result.as_numpy("positive").tolist() == [[True], [True]]
    wanted = [
        triton.InferRequestedOutput("total", binary_data=False),
        triton.InferRequestedOutput("half", binary_data=True),
    ]
    result = client.infer("pair", inputs, outputs=wanted)
    assert result.as_numpy("total").tolist() == [[3], [12]]
    assert result.as_numpy("positive") is None


def infer_bfloat16(client):
    array = np.array([[1.5, -2], [0, 1]], ml_dtypes.bfloat16)
    assert client.get_model_metadata("brain")["inputs"][0]["datatype"] == "BF16"
    result = client.infer("brain", [tensor("input", array, "BF16", True)])
    assert result.as_numpy("output").dtype == ml_dtypes.bfloat16
    assert result.as_numpy("output").tolist() == [[3, -4], [0, 2]]


def manage(client):
    def states():
        return {model["name"]: model["state"] for model in client.get_model_repository_index()}

    assert states()["later"] == "UNAVAILABLE"
    client.load_model("later")
    assert states()["later"] == "READY"
    assert client.get_model_config("later")["max_batch_size"] == 4
    assert client.infer("later", x()).as_numpy("output").tolist() == [[6, 6, 6]]
    client.unload_model("later")
    assert states()["later"] == "UNAVAILABLE"
    assert status_of(client.infer, "later", x()) == 503


def go_wrong(client):
    assert status_of(client.get_model_metadata, "nope") == 404
    assert status_of(client.infer, "nope", x()) == 404
    assert status_of(client.infer, "mlp", x(), model_version="2") == 404
    assert status_of(client.infer, "mlp", x(array=np.ones((1, 5), np.float32))) == 400
    assert status_of(client.infer, "mlp", x(array=np.ones((9, 4), np.float32))) == 400
    assert status_of(client.infer, "mlp", [tensor("input", X.astype(int), "INT64", True)]) == 400
    no = [triton.InferRequestedOutput("no")]
    assert status_of(client.infer, "mlp", x(), outputs=no) == 400
    for binary in (True, False):
        words = tensor("input", np.array([[b"a", b"bc", b"", b"d"]], object), "BYTES", binary)
        error = error_of(client.infer, "mlp", [words])
        assert error.status() == "400"
        assert error.message() == "model 'mlp': input 'input' is BYTES, which no model takes"
    negative = tensor("input", -np.ones((1, 1), np.float32), "FP32", True)
    assert status_of(client.infer, "gate", [negative]) == 500
    assert client.infer("mlp", x()).as_numpy("output") is not None


def count(client):
    (stats,) = client.get_inference_statistics("mlp")["model_stats"]
    assert stats["inference_stats"]["success"]["count"] >= 17
    assert stats["inference_stats"]["success"]["ns"] > 0
    assert stats["last_inference"] > 0
    assert len(client.get_inference_statistics()["model_stats"]) == 4


def share(client):
    handle = shm.create_shared_memory_region("region", "/missile_http_session", 64)
    try:
        shm.set_shared_memory_region(handle, [X])
        client.register_system_shared_memory("region", "/missile_http_session", 64)
        (region,) = client.get_system_shared_memory_status()
        assert (region["name"], region["byte_size"]) == ("region", 64)
        source = triton.InferInput("input", [1, 4], "FP32").set_shared_memory("region", 16)
        wanted = triton.InferRequestedOutput("output")
        wanted.set_shared_memory("region", 12, offset=32)
        result = client.infer("mlp", [source], outputs=[wanted])
        assert result.get_output("output")["shape"] == [1, 3]
        got = shm.get_contents_as_numpy(handle, np.float32, [1, 3], 32)
        assert got.tolist() == [[6, 6, 6]]
        client.unregister_system_shared_memory("region")
        assert client.get_system_shared_memory_status() == []
    finally:
        shm.destroy_shared_memory_region(handle)


async def asynchronous(url):
    async with triton_aio.InferenceServerClient(url) as client:
        assert await client.is_server_ready()
        got = await asyncio.gather(*(client.infer("mlp", x()) for _ in range(8)))
        assert all(result.as_numpy("output").tolist() == [[6, 6, 6]] for result in got)
        assert (await client.get_model_config("mlp"))["max_batch_size"] == 4
        await client.load_model("later")
        index = {
            model["name"]: model["state"] for model in await client.get_model_repository_index()
        }
        assert index["later"] == "READY"
        assert (await client.infer("later", x())).as_numpy("output").tolist() == [[6, 6, 6]]
        await client.unload_model("later")
        assert not await client.is_model_ready("later")


def main() -> None:
    client = triton.InferenceServerClient(sys.argv[1], concurrency=4)
    for part in (describe, infer, infer_pair, infer_bfloat16, manage, go_wrong, count, share):
        part(client)
        print(part.__name__, "ok")
    client.close()
    asyncio.run(asynchronous(sys.argv[1]))
    print("asynchronous ok")


if __name__ == "__main__":
    main()
