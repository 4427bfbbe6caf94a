"""What runs in a process whose JAX is on a plugin. Only plain values and numpy arrays go back."""

import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

Results = dict[str, Any]

DTYPES = (
    "bool int8 int16 int32 uint8 uint16 uint32 float16 float32 complex64 bfloat16 float8_e4m3fn "
    "float8_e5m2 int4 uint4 int2"
).split()


def describe() -> dict[str, Any]:
    import jax

    first = jax.devices()[0]
    return {
        "backend": jax.default_backend(),
        "devices": [str(device) for device in jax.devices()],
        "kinds": [memory.kind for memory in first.addressable_memories()],
        "version": first.client.platform_version,
    }


def statistics() -> dict[str, int]:
    from missile_jax.plugin.statistics import read_statistics

    counts = read_statistics()
    assert counts is not None
    return counts


def memory(device: int = 0) -> dict[str, int]:
    import jax

    return jax.devices()[device].memory_stats() or {}


def passed_uploads() -> dict[str, dict[str, int]]:
    """Of uploads that pass through for one reason each: which counts of uploads they raise."""
    import jax
    from jax.sharding import SingleDeviceSharding

    from missile_jax.plugin.register import register

    register("off", {"missile_arena": "0"})
    register("small", {"missile_arena": "4KiB"})
    jax.config.update("jax_platforms", "missile,off,small,cpu")
    device, off, small = (jax.devices(name)[0] for name in ("missile", "off", "small"))
    host = SingleDeviceSharding(device, memory_kind="pinned_host")
    x = _random(2000)
    uploads: dict[str, tuple[Any, Any]] = {
        "plain": (x, device),
        "int4": (np.arange(4).astype(jax.numpy.int4), device),
        "empty": (x[:0], device),
        "in host memory": (x, host),
        "without an arena": (x, off),
        "larger than the arena": (x, small),
        "that fits": (x[:1000], small),
    }
    raised: dict[str, dict[str, int]] = {}
    for name, (array, target) in uploads.items():
        before = statistics()
        held = jax.device_put(array, target).block_until_ready()
        raised[name] = {
            count: value - before[count]
            for count, value in statistics().items()
            if count.startswith("uploads_") and value != before[count]
        }
        assert (np.asarray(held) == array).all()
    return raised


def transfers(folder: str, library: str) -> Results:
    """Bytes in use while a transfer manager of the ABI's comes and goes, and what arrived."""
    import importlib
    import sys

    sys.path.append(folder)
    pjrt = importlib.import_module("pypjrt")
    plugin = importlib.import_module("pypjrt._loader").Plugin(library)
    f32 = 11
    values = _random(1000)
    steps: Results = {}
    describe()  # Loads the plugin, whose counts are one library's.
    before = statistics()
    with pjrt.Client(plugin) as client, client.device() as device:

        def used() -> int:
            return device.memory_stats()["bytes_in_use"]

        shapes = [pjrt.ShapeSpec(f32, (1000,)), pjrt.ShapeSpec(f32, (500,))]
        with client.async_transfer(shapes, device=device) as transfer:
            steps["made"] = used()
            transfer.transfer(0, values[:300].copy(), last=False)
            transfer.transfer(0, values[300:].copy(), offset=1200)
            buffer = transfer.retrieve(0)
            steps["retrieved"] = used()
            steps["arrived"] = buffer.to_host() == values.tobytes()
        steps["manager ended"] = used()
        buffer.close()
        steps["buffer ended"] = used()
    after = statistics()
    steps["managers"] = [
        after[count] - before[count] for count in ("managers_made", "managers_ended")
    ]
    return steps


def _bits(value: Any) -> Any:
    """Something that is equal if and only if every bit is."""
    array = np.asarray(value)
    return str(array.dtype), array.shape, array.tobytes()


def _tree_bits(tree: Any) -> list[Any]:
    import jax

    return [_bits(leaf) for leaf in jax.tree.leaves(tree)]


def run(names: list[str]) -> Results:
    """The results of programs by name: their bits, or what they raise."""
    results: Results = {}
    for name in names:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Some donated buffers were not usable")
            try:
                results[name] = PROGRAMS[name]()
            except Exception as error:  # noqa: BLE001 - compared, whatever it is
                results[name] = f"{type(error).__name__}: {error}"
    return results


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def jit() -> Any:
    import jax
    import jax.numpy as jnp

    w, x = _random(64, 64), _random(8, 64, seed=1)
    f = jax.jit(lambda w, x: (jnp.tanh(x @ w), jnp.argmax(x @ w, axis=-1), jnp.float32(3)))
    return _tree_bits((f(w, x), f(w, x), jax.random.normal(jax.random.key(1), (5,))))


def grad() -> Any:
    import jax
    import jax.numpy as jnp

    def loss(params: Any, x: Any) -> Any:
        for w in params:
            x = jax.nn.gelu(x @ w)
        return jnp.mean(x**2)

    params = [jax.device_put(_random(32, 32, seed=i)) for i in range(3)]
    step = jax.jit(jax.value_and_grad(loss))
    x = _random(4, 32, seed=9)
    for _ in range(5):
        value, gradients = step(params, x)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, gradients)
    hessian = jax.jit(jax.hessian(lambda v: jnp.sum(jnp.sin(v) ** 3)))(_random(6))
    return _tree_bits((value, params, hessian))


def vmap_scan() -> Any:
    import jax
    import jax.numpy as jnp

    def cell(carry: Any, x: Any) -> tuple[Any, Any]:
        carry = jnp.tanh(carry + x)
        return carry, carry.sum()

    run = jax.jit(jax.vmap(lambda c, xs: jax.lax.scan(cell, c, xs)))
    loop = jax.jit(lambda x: jax.lax.while_loop(lambda v: v.sum() < 100, lambda v: v * 1.5, x))
    branch = jax.jit(lambda i, x: jax.lax.switch(i, [jnp.sin, jnp.cos, jnp.exp], x))
    return _tree_bits(
        (run(_random(3, 8), _random(3, 7, 8)), loop(np.ones(4, np.float32)), branch(2, _random(4)))
    )


def shard_map() -> Any:
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = jax.make_mesh((4,), ("d",), devices=jax.devices()[:4])
    sharding = NamedSharding(mesh, PartitionSpec("d"))
    x = jax.device_put(_random(8, 16), sharding)

    @jax.jit
    @partial(jax.shard_map, mesh=mesh, in_specs=PartitionSpec("d"), out_specs=PartitionSpec("d"))
    def mixed(block: Any) -> Any:
        around = jax.lax.ppermute(block, "d", [(i, (i + 1) % 4) for i in range(4)])
        return block * jax.lax.psum(jnp.sum(block), "d") + around

    y = mixed(x)
    z = jax.jit(lambda a: jnp.sin(a).sum(axis=1))(y)
    on_one = jax.device_put(y, jax.devices()[2])
    return _tree_bits((y, z, on_one)), len(y.addressable_shards), str(on_one.device)


def donation() -> Any:
    import jax

    results = []
    matching = jax.jit(lambda x: x * 2 + 1, donate_argnums=0)
    other = jax.jit(lambda x: x[:3] + 1, donate_argnums=0)
    two = jax.jit(lambda p, x: ([a + x for a in p], x.sum()), donate_argnums=0)
    for f in (matching, other):
        uploaded = jax.device_put(_random(1000))
        first = f(uploaded)
        kept = np.array(first)
        second = matching(first)
        results.append((_bits(kept), _bits(second), uploaded.is_deleted(), first.is_deleted()))
    params = [jax.device_put(_random(64, seed=i)) for i in range(3)]
    for _ in range(3):
        before = params
        params, total = two(params, np.float32(0.5))
        results.append(([p.is_deleted() for p in before], _bits(total)))
    # The same array twice, and one that was donated before.
    x = jax.device_put(_random(10))
    matching(x)
    try:
        matching(x)
    except Exception as error:  # noqa: BLE001 - compared
        results.append((type(error).__name__, "deleted" in str(error) or "donated" in str(error)))
    # In a copy between devices and memories.
    moved = jax.device_put(jax.device_put(_random(100)), jax.devices()[1], donate=True)
    return results, _tree_bits(params), _bits(moved)


def deletion() -> Any:
    import jax

    x = jax.device_put(_random(100))
    alias = jax.device_put(x, jax.devices()[0])
    view = np.asarray(x)
    y = jax.jit(lambda a: a + 1)(x)
    x.delete()
    message = ""
    try:
        np.asarray(x)
    except RuntimeError as error:
        message = str(error)
    return _bits(y), _bits(view), x.is_deleted(), alias.is_deleted(), message


def aliasing() -> Any:
    import jax

    shared = jax.device_put(_random(1 << 19), may_alias=True)
    imported = jax.numpy.from_dlpack(jax.device_put(_random(64)))
    return _bits(shared), _bits(imported), _bits(shared + 1)


def mutated_sources(count: int) -> int:
    """How many uploads are what they were, once their source has become something else."""
    import jax

    kept = 0
    for seed in range(count):
        source = _random(1 << (10 + 3 * (seed % 4)), seed=seed)
        x = jax.device_put(source, may_alias=False)
        x.block_until_ready()
        before = source.copy()
        source[:] = 7
        kept += bool((np.asarray(x) == before).all())
    return kept


def dtypes() -> Any:
    import jax
    import jax.numpy as jnp

    results = {}
    for name in DTYPES:
        values = np.arange(-4, 5).astype(np.float32)
        if name.startswith(("uint", "bool")):
            values = np.abs(values)
        host = values.astype(jnp.dtype(name))
        x = jax.device_put(host)
        results[name] = (_bits(x), _bits(jax.jit(lambda a: a[::2])(x)), x.nbytes)
    with jax.enable_x64(True):
        for name in ("int64", "uint64", "float64", "complex128"):
            x = jax.device_put(np.arange(5).astype(name))
            results[name] = _bits(jax.jit(lambda a: a * 3)(x))
    keys = jax.random.split(jax.random.key(0), 3)
    results["keys"] = _bits(jax.random.key_data(keys))
    return results


def strides() -> Any:
    import jax

    base = _random(6, 7, 8)
    views = [
        base.T, base[::2], base[:, ::-1], base[..., 1:5], np.asfortranarray(base), base[:1, :, :],
        base.transpose(1, 0, 2), np.broadcast_to(base[0], (3, 7, 8)), base[:, :, 3], base[0, 0, 0],
        np.zeros((0, 3), np.float32), np.zeros((3, 0), np.float32)[::2], base[:, 2:3, ::3],
    ]  # fmt: skip
    return [(_bits(jax.device_put(v)), _bits(jax.jit(lambda a: a + 1)(v))) for v in views]


def layouts() -> Any:
    import jax
    from jax.experimental.layout import Format, Layout
    from jax.sharding import SingleDeviceSharding

    results = []
    for order in ((0, 1, 2), (2, 1, 0), (1, 2, 0)):
        target = Format(Layout(order), SingleDeviceSharding(jax.devices()[0]))
        x = jax.device_put(_random(3, 4, 5), target)
        y = jax.jit(lambda a: a * 2, in_shardings=target, out_shardings=target)(x)
        results.append((_bits(x), _bits(y), str(y.format.layout.major_to_minor)))
    return results


def memories() -> Any:
    import jax
    from jax.sharding import SingleDeviceSharding

    on = partial(SingleDeviceSharding, jax.devices()[0])
    x = jax.device_put(_random(100), on(memory_kind="pinned_host"))
    back = jax.device_put(x, on(memory_kind="device"))
    direct = jax.device_put(back, on(memory_kind="unpinned_host"))
    return _tree_bits((x, back, direct)), [a.sharding.memory_kind for a in (x, back, direct)]


def errors() -> Any:
    import jax
    import jax.numpy as jnp

    messages = []
    for call in (
        lambda: jax.jit(lambda x: x).lower(1.0).compile()(np.zeros((2,), np.float32)),
        lambda: jax.jit(jax.ffi.ffi_call("nobody", jax.ShapeDtypeStruct((), jnp.float32)))(),
        lambda: jax.jit(lambda x: x).lower(1.0).compile({"no_such_option": True}),
    ):
        try:
            call()
            messages.append("none")
        except Exception as error:  # noqa: BLE001 - compared
            messages.append(f"{type(error).__name__}: {str(error).splitlines()[0][:120]}")
    return messages


def large() -> Any:
    """Arrays of several chunks of the link."""
    import jax

    x = jax.device_put(_random(3 << 20))
    return _bits(jax.jit(lambda a: a[:: 1 << 18])(x)), _bits(x[-3:])


def serialized() -> Any:
    import jax
    from jax.experimental import serialize_executable

    def again(compiled: Any) -> Any:
        return serialize_executable.deserialize_and_load(
            *serialize_executable.serialize(compiled), execution_devices=jax.devices()[:1]
        )

    compiled = jax.jit(lambda x: x * 3 + 1).lower(_random(5)).compile()
    loaded = again(compiled)
    stats = compiled.memory_analysis()
    donated = jax.jit(lambda x: x + 1, donate_argnums=0).lower(_random(5)).compile()
    loaded_donated = again(donated)
    x = jax.device_put(_random(5))
    y = loaded_donated(x)
    return (
        _bits(loaded(_random(5))),
        stats.argument_size_in_bytes, stats.temp_size_in_bytes,
        sorted((compiled.cost_analysis() or {}).items()),
        compiled.as_text(), _bits(y), x.is_deleted(),
    )  # fmt: skip


def orbax() -> Any:
    import jax
    import orbax.checkpoint as ocp

    tree = {"w": jax.device_put(_random(16, 4)), "n": [jax.numpy.arange(3), np.float32(2)]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder).resolve() / "state"
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, tree)
            checkpointer.wait_until_finished()
            back = checkpointer.restore(path, jax.tree.map(jax.numpy.zeros_like, tree))
    return _tree_bits(back), [str(type(leaf).__name__) for leaf in jax.tree.leaves(back)]


def threads() -> Any:
    """Launches and uploads of several threads at once."""
    from concurrent.futures import ThreadPoolExecutor

    import jax

    f = jax.jit(lambda x: (x @ x.T).sum())

    def work(seed: int) -> Any:
        return [_bits(f(jax.device_put(_random(20, 20, seed=seed + i)))) for i in range(20)]

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(work, range(4)))


PROGRAMS: dict[str, Callable[[], Any]] = {
    f.__name__: f
    for f in (
        jit, grad, vmap_scan, shard_map, donation, deletion, aliasing, dtypes, strides, layouts,
        memories, errors, large, serialized, orbax, threads,
    )
}  # fmt: skip


def linear_algebra() -> Any:
    import jax.numpy as jnp

    x = _random(6, 6)
    return [np.asarray(jnp.linalg.svd(x)[1]), np.asarray(jnp.linalg.inv(x))]


def nested_callbacks() -> np.ndarray:
    """A launch whose host code launches: what waits for the first can not wait for the second."""
    import jax
    from jax.experimental.buffer_callback import buffer_callback

    inner = jax.jit(lambda x: x * 2)

    def on_host(context: Any, out: Any, x: Any) -> None:
        np.asarray(out)[...] = np.asarray(inner(np.asarray(x))) + 1

    shape = jax.ShapeDtypeStruct((3,), np.float32)
    outer = jax.jit(lambda x: buffer_callback(on_host, shape)(x))
    return np.asarray(outer(np.ones(3, np.float32)))


def host_callbacks() -> dict[str, Any]:
    """What each of JAX's ways to run host code from a program gives, or its error's first line."""
    import jax
    from jax.experimental import io_callback

    shape = jax.ShapeDtypeStruct((3,), np.float32)

    def pure(x: Any) -> Any:
        return jax.pure_callback(lambda a: np.asarray(a) * 2 + 1, shape, x)

    def io(x: Any) -> Any:
        return io_callback(lambda a: np.asarray(a) * 2 + 1, shape, x)

    def debug(x: Any) -> Any:
        jax.debug.print("{}", x)
        return x * 2 + 1

    ways = {f.__name__: partial(jax.jit(f), np.ones(3, np.float32)) for f in (pure, io, debug)}
    results: dict[str, Any] = {}
    for name, call in {**ways, "buffer": nested_callbacks}.items():
        try:
            results[name] = np.asarray(call()).tolist()
            jax.effects_barrier()
        except Exception as error:  # noqa: BLE001 - compared
            results[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return results


def settle(expected_bytes: int) -> int:
    """Bytes in use once nothing is in flight: events come on other threads."""
    for _ in _attempts():
        used = memory()["bytes_in_use"]
        if used == expected_bytes:
            break
    return used


def _attempts(seconds: float = 20.0) -> Iterator[None]:
    import time

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield


def _used() -> int:
    return memory()["bytes_in_use"]


def accounting() -> Results:
    """Bytes in use after each step, with nothing else alive."""
    import gc

    import jax

    gc.collect()
    steps: Results = {}
    base = _used()
    x = jax.device_put(_random(1000))
    steps["upload"] = _used() - base
    y = jax.jit(lambda a: a + 1)(x)
    steps["output"] = settle(base + 8000) - base
    z = jax.jit(lambda a: a * 2, donate_argnums=0)(y)
    steps["donated to its output"] = settle(base + 8000) - base
    w = jax.jit(lambda a: a * 2, donate_argnums=0)(x)
    steps["view donated to an output"] = settle(base + 8000) - base
    del z
    steps["dropped"] = settle(base + 4000) - base
    copy = jax.device_put(w, jax.devices()[1])
    steps["copy elsewhere"] = memory(1)["bytes_in_use"]
    w.delete()
    steps["deleted"] = settle(base) - base
    del copy
    steps["copy dropped"] = memory(1)["bytes_in_use"]
    packed = jax.device_put(np.zeros(1000).astype(jax.numpy.int4))
    steps["packed"] = _used() - base
    del packed
    host = jax.device_put(_random(1000), jax.sharding.SingleDeviceSharding(
        jax.devices()[0], memory_kind="pinned_host"))  # fmt: skip
    steps["in host memory"] = settle(base) - base
    del host
    return steps


def temporaries() -> tuple[int, int, int]:
    """Peak bytes of a launch with a large temporary, the compiler's figure, and what is left."""
    import jax

    base = _used()
    x = jax.device_put(_random(256, 256))
    f = jax.jit(lambda a: jax.lax.fori_loop(0, 2, lambda i, b: b @ b, a).sum())
    compiled = f.lower(x).compile()
    needed = compiled.memory_analysis().temp_size_in_bytes
    compiled(x).block_until_ready()
    peak = memory()["peak_bytes_in_use"]
    del x
    return peak - base, needed, settle(base) - base


def over_the_cap() -> Results:
    """What a tenant with a cap of 8 MiB is told, and that it goes on."""
    import jax

    results: Results = {"stats": memory()}
    held = [jax.device_put(_random(1 << 18))]  # 1 MiB
    double = jax.jit(lambda a: jax.numpy.concatenate([a] * 16))  # 16 MiB

    def refused(call: Callable[[], Any]) -> str:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - shown
            return f"{type(error).__name__}: {error}"
        return "not refused"

    results["upload"] = refused(lambda: jax.device_put(_random(1 << 22)).block_until_ready())
    results["launch"] = refused(lambda: double(held[0]).block_until_ready())
    for _ in range(200):
        refused(lambda: double(held[0]))
    results["after"] = _bits(jax.jit(lambda a: a[:2] > 100)(held[0]))
    held.clear()
    results["left"] = settle(0)
    results["counts"] = statistics()
    return results


def many_launches(count: int) -> float:
    """More launches than fit in memory at once: each waits for temporaries of those before."""
    import jax

    x = jax.device_put(_random(512, 512))
    f = jax.jit(lambda a: (a @ a @ a).sum())
    return float(sum(float(y) for y in [f(x) for _ in range(count)]) / count / float(f(x)))


def churn(rounds: int) -> dict[str, int]:
    """Objects of the wrapper that are left after many came and went."""
    import gc

    import jax

    f = jax.jit(lambda a, b: (a + b, a * b), donate_argnums=0)
    g = jax.jit(lambda a: a.sum())
    for i in range(rounds):
        x = jax.device_put(_random(100 + i % 3))
        y, z = f(x, _random(100 + i % 3, seed=1))
        g(y), g(z)
        if i % 3 == 0:
            z.delete()
    del x, y, z
    jax.clear_caches()
    gc.collect()
    for _ in _attempts():
        counts = statistics()
        left = {
            name.removesuffix("_made"): made - counts[name.replace("_made", "_ended")]
            for name, made in counts.items()
            if name.endswith("_made")
        }
        if not left["launches"] and not left["placements"]:
            break
    return left


def models(names: list[str]) -> Results:
    """Models of the zoo through this project's own runtime, whole and in segments."""
    import missile_jax as mj
    from missile_jax import models as zoo

    results: Results = {}
    for name in names:
        net = zoo.load(name, random_weights=True)
        for priority in ("latency", "best_effort"):
            with mj.Runtime() as runtime:
                runtime.load(
                    "m", model=net.module, params=net.variables, example=net.example,
                    priority=priority,
                )  # fmt: skip
                results[f"{name} {priority}"] = _tree_bits(runtime.infer("m", net.example))
                plan = runtime.stats()["models"]["m"]["plans"][0]
                results[f"{name} {priority} segments"] = plan["segments"]
    return results


def compile_for_h100(wrapped: bool) -> dict[str, tuple[Any, ...]]:
    """Memory analyses of ResNet-50 and a Pallas kernel, compiled without the GPU."""
    import jax
    from jax.experimental import pallas as pl
    from jax.experimental import topologies
    from jax.experimental.pallas import triton

    from missile_jax import models as zoo
    from missile_jax.program.target import _targets

    if wrapped:
        from missile_jax.plugin.register import register

        register()
    topology = topologies.get_topology_desc(
        platform="missile" if wrapped else "cuda",
        target_config=(_targets() / "h100.txtpb").read_text(),
        topology="1x1x1",
    )
    device = topology.devices[0]
    sharding = jax.sharding.SingleDeviceSharding(device)

    def figures(fn: Callable[..., Any], *examples: Any) -> tuple[Any, ...]:
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), examples
        )
        compiled = jax.jit(fn).lower(*shapes).compile()
        memory = compiled.memory_analysis()
        text = compiled.as_text()
        kernels = sorted(set(re.findall("__cudnn|__cublas|__gpu.xla.gpu.triton", text)))
        return (
            memory.argument_size_in_bytes, memory.output_size_in_bytes,
            memory.temp_size_in_bytes, memory.alias_size_in_bytes, kernels, len(text),
        )  # fmt: skip

    net = zoo.load("resnet50", random_weights=True)

    def double(x: Any, o: Any) -> None:
        o[...] = x[...] * 2

    x = np.zeros((64, 64), np.float32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The Triton backend")
        kernel = pl.pallas_call(
            double,
            out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
            compiler_params=triton.CompilerParams(num_warps=4),
        )
        return {
            "platform": (device.platform, device.device_kind),
            "resnet50": figures(net.module.apply, net.variables, net.example),
            "pallas": figures(lambda x: kernel(x) + 1, x),
        }
