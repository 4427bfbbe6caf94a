"""Regions of shared memory, and their routes over HTTP."""

import os
import weakref
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory

import numpy as np
import orjson
import pytest
from harness import Client

from missile_jax.options import HttpOptions, SharedMemoryOptions
from missile_jax.server.dataplane import Dataplane
from missile_jax.server.serve import HttpServer
from missile_jax.server.shared_memory import RegionError, Regions, Slice, slice_in
from missile_jax.server.tensors import CodecError, to_bytes

ON = SharedMemoryOptions(system=True, max_regions=2, max_request_bytes=100)


@pytest.fixture
def regions() -> Regions:
    return Regions(ON)


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    """64 bytes that count from 0."""
    memory = SharedMemory(create=True, size=64)
    memory.buf[:64] = bytes(range(64))
    yield memory
    memory.close()
    memory.unlink()


def key(memory: SharedMemory) -> str:
    return "/" + memory.name.removeprefix("/")


def shorten(memory: SharedMemory, size_bytes: int) -> None:
    os.truncate(f"/dev/shm{key(memory)}", size_bytes)


def open_objects(memory: SharedMemory) -> int:
    """How many descriptors of this process are open on `memory`."""
    path = f"/dev/shm{key(memory)}"
    count = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            count += os.readlink(f"/proc/self/fd/{name}") == path
        except FileNotFoundError:
            continue  # the one that listed them
    return count


def test_a_slice_is_read_and_written_where_it_lies(regions, memory):
    regions.register("r", key(memory), 8, 16)
    assert regions.reader().read(Slice("r", 3, 2)) == bytes([10, 11, 12])
    assert regions.write(Slice("r", 4, 12), b"abc") == Slice("r", 3, 12)
    assert bytes(memory.buf[19:25]) == bytes([19]) + b"abc" + bytes([23, 24])


def test_status(regions, memory):
    regions.register("r", key(memory), 8, 16)
    regions.register("s", key(memory), 0, 1)
    (region,) = regions.status("r")
    assert (region.name, region.key, region.offset_bytes, region.size_bytes) == (
        "r",
        key(memory),
        8,
        16,
    )
    assert [region.name for region in regions.status()] == ["r", "s"]
    regions.unregister("r")
    assert [region.name for region in regions.status()] == ["s"]
    regions.unregister()
    assert regions.status() == []


def test_an_object_is_closed_with_the_last_use_of_its_region(regions, memory):
    before = open_objects(memory)
    regions.register("r", key(memory), 0, 64)
    (region,) = regions.status("r")
    regions.unregister("r")
    assert region.read(Slice("r", 1)) == b"\0"
    gone = weakref.ref(region)
    assert open_objects(memory) == before + 1
    del region
    assert gone() is None
    assert open_objects(memory) == before


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "name",
        "//name",
        "/a/b",
        "/..",
        "/.",
        "/../etc/passwd",
        "/" + "a" * 255,
        "/nul\0",
        "/name\n/x",
    ],
)
def test_a_key_that_is_no_name_of_shared_memory_is_refused(regions, name):
    with pytest.raises(RegionError, match="is not allowed"):
        regions.register("r", name, 0, 1)


def test_what_is_no_shared_memory_is_refused(regions, memory):
    with pytest.raises(RegionError, match="'/missile_none' cannot be opened: No such file"):
        regions.register("r", "/missile_none", 0, 1)
    link = f"/dev/shm{key(memory)}_link"
    os.symlink("/etc/passwd", link)
    try:
        with pytest.raises(RegionError, match="cannot be opened"):
            regions.register("r", key(memory) + "_link", 0, 1)
    finally:
        os.unlink(link)
    os.mkfifo(link)
    try:
        with pytest.raises(RegionError, match="is not a shared memory object"):
            regions.register("r", key(memory) + "_link", 0, 1)
    finally:
        os.unlink(link)


@pytest.mark.parametrize(
    ("offset", "size", "message"),
    [
        (0, 65, "has 64 bytes"),
        (64, 1, "has 64 bytes"),
        (2**64 - 1, 1, "has 64 bytes"),
        (0, 2**64 - 1, "has 64 bytes"),
        (0, 0, "byte_size of 1 or more"),
        (-1, 1, "offset of 0 or more"),
    ],
)
def test_a_region_that_its_object_does_not_hold_is_refused(regions, memory, offset, size, message):
    with pytest.raises(RegionError, match=message):
        regions.register("r", key(memory), offset, size)
    assert regions.status() == []


def test_names_are_taken_once_and_are_so_many(regions, memory):
    regions.register("r", key(memory), 0, 1)
    with pytest.raises(RegionError, match="'r' is registered already"):
        regions.register("r", key(memory), 0, 1)
    with pytest.raises(RegionError, match="must have a name"):
        regions.register("", key(memory), 0, 1)
    regions.register("s", key(memory), 0, 1)
    with pytest.raises(RegionError, match="2 shared memory regions are registered"):
        regions.register("t", key(memory), 0, 1)


@pytest.mark.parametrize("part", [Slice("r", 17), Slice("r", 1, 16), Slice("r", 2**64, 2**64)])
def test_a_slice_outside_of_its_region_is_refused(regions, memory, part):
    regions.register("r", key(memory), 8, 16)
    with pytest.raises(RegionError, match="'r' has 16 bytes"):
        regions.check(part)


def test_an_output_that_is_larger_than_its_place_is_not_written(regions, memory):
    regions.register("r", key(memory), 0, 64)
    with pytest.raises(RegionError, match="an output of 3 bytes does not fit into the 2"):
        regions.write(Slice("r", 2), b"abc")
    assert bytes(memory.buf[:3]) == bytes(range(3))


@pytest.mark.parametrize("shape", [(1, 0), (0, 3), (2, 0, 2)])
def test_a_tensor_without_elements_takes_no_place(regions, memory, shape):
    regions.register("r", key(memory), 0, 64)
    for part in (Slice("r", 16), Slice("r", 0, 64)):
        empty = to_bytes(np.zeros(shape, np.float32))
        assert regions.write(part, empty) == part._replace(size_bytes=0)
    assert regions.reader().read(Slice("r", 0, 64)) == b""
    assert bytes(memory.buf[:64]) == bytes(range(64))


def test_an_object_that_was_cut_short_is_an_error_where_it_ends(regions, memory):
    regions.register("r", key(memory), 0, 64)
    shorten(memory, 32)
    assert regions.reader().read(Slice("r", 32)) == bytes(range(32))
    for use in (
        lambda: regions.reader().read(Slice("r", 33)),
        lambda: regions.check(Slice("r", 33)),
        lambda: regions.write(Slice("r", 33), bytes(33)),
    ):
        with pytest.raises(RegionError, match="is shorter than it was"):
            use()
    assert os.stat(f"/dev/shm{key(memory)}").st_size == 32


def test_one_request_reads_no_more_than_its_limit(regions, memory):
    regions.register("r", key(memory), 0, 64)
    reader = regions.reader()
    reader.read(Slice("r", 64))
    with pytest.raises(RegionError, match="larger than the 36 that are left"):
        reader.read(Slice("r", 37))
    assert len(regions.reader().read(Slice("r", 37))) == 37


@pytest.mark.parametrize(
    "parameters",
    [
        {"shared_memory_region": 7},
        {"shared_memory_region": "r"},
        {"shared_memory_region": "r", "shared_memory_byte_size": "8"},
        {"shared_memory_region": "r", "shared_memory_byte_size": -8},
        {"shared_memory_region": "r", "shared_memory_byte_size": True},
        {"shared_memory_region": "r", "shared_memory_byte_size": 8, "shared_memory_offset": 0.5},
    ],
)
def test_parameters_that_name_no_slice_are_refused(parameters):
    with pytest.raises(CodecError, match="parameter shared_memory_"):
        slice_in("input 'x'", parameters)


@pytest.mark.parametrize("part", [Slice("r", 0), Slice("r", 8, 16)])
def test_a_slice_as_parameters(part):
    assert slice_in("input 'x'", part.parameters()) == part
    assert slice_in("input 'x'", {}) is None


# Over HTTP.


@pytest.fixture(scope="module")
def shared_server(runtime) -> Iterator[HttpServer]:
    options = SharedMemoryOptions(system=True)
    with HttpServer(Dataplane(runtime, shared_memory=options), HttpOptions(port=0)) as server:
        yield server


@pytest.fixture
def shared(shared_server, connect) -> Client:
    return connect(shared_server)


BASE = "/v2/systemsharedmemory"


def register(client: Client, memory: SharedMemory, **fields):
    body = orjson.dumps({"key": key(memory), "byte_size": 64} | fields)
    return client.ask("POST", f"{BASE}/region/r/register", body)


def infer_request(part: dict, output: dict) -> bytes:
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 4], "parameters": part}
    outputs = [{"name": "output", "parameters": output}]
    return orjson.dumps({"inputs": [tensor], "outputs": outputs})


def test_the_routes(shared, memory):
    assert shared.get(f"{BASE}/status") == []
    assert register(shared, memory, offset=8, byte_size=16)[0] == 200
    entry = {"name": "r", "key": key(memory), "offset": 8, "byte_size": 16}
    assert shared.get(f"{BASE}/status") == shared.get(f"{BASE}/region/r/status") == [entry]
    assert shared.ask("POST", f"{BASE}/region/r/unregister")[0] == 200
    status, text = shared.error("GET", f"{BASE}/region/r/status")
    assert (status, text) == (400, "no shared memory region 'r' is registered")
    assert register(shared, memory)[0] == 200
    assert shared.ask("POST", f"{BASE}/unregister")[0] == 200
    assert shared.get(f"{BASE}/status") == []


def test_an_inference_from_memory_to_memory(shared, memory):
    memory.buf[4:20] = np.arange(4, dtype=np.float32).tobytes()
    assert register(shared, memory)[0] == 200
    try:
        body = infer_request(Slice("r", 16, 4).parameters(), Slice("r", 16, 32).parameters())
        status, _, answer = shared.ask("POST", "/v2/models/mlp/infer", body)
        assert status == 200, answer
        (output,) = orjson.loads(answer)["outputs"]
        assert output == {
            "name": "output",
            "datatype": "FP32",
            "shape": [1, 3],
            "parameters": Slice("r", 12, 32).parameters(),
        }
        assert np.frombuffer(memory.buf, np.float32, 3, 32).tolist() == [6, 6, 6]
        body = infer_request(Slice("r", 16, 4).parameters(), Slice("r", 8, 32).parameters())
        status, text = shared.error("POST", "/v2/models/mlp/infer", body)
        assert (status, "does not fit" in text) == (400, True)
        shorten(memory, 16)
        body = infer_request(Slice("r", 16, 4).parameters(), {})
        status, text = shared.error("POST", "/v2/models/mlp/infer", body)
        assert (status, "shorter than it was" in text) == (400, True)
    finally:
        shared.ask("POST", f"{BASE}/unregister")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"key", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"", "key must be of type str"),
        (b'{"key": "/a", "offset": "0", "byte_size": 1}', "offset must be of type int"),
        (b'{"key": "/a", "byte_size": true}', "byte_size must be of type int"),
        (b'{"key": "/a/b", "byte_size": 1}', "is not allowed"),
    ],
)
def test_a_registration_that_is_wrong_is_told_why(shared, body, message):
    status, text = shared.error("POST", f"{BASE}/region/r/register", body)
    assert status == 400
    assert message in text


def test_a_registration_has_a_limit(shared):
    assert shared.error("POST", f"{BASE}/region/r/register", b" " * 70_000)[0] == 413


def test_it_is_off_unless_it_is_turned_on(client, shared, memory):
    assert "system_shared_memory" in shared.get("/v2")["extensions"]
    assert "system_shared_memory" not in client.get("/v2")["extensions"]
    part = Slice("r", 16).parameters()
    for call in (
        ("GET", f"{BASE}/status"),
        ("POST", f"{BASE}/unregister"),
        ("POST", f"{BASE}/region/r/register", b'{"key": "/a", "byte_size": 1}'),
        ("POST", "/v2/models/mlp/infer", infer_request(part, {})),
    ):
        assert client.error(*call) == (400, "this server does not take system shared memory")
