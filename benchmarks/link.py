"""Is the link as fast as a bare copy, faster than `jax.device_put`, and fair?

Rates: each size is copied in every way in turn, in an order that is drawn anew each time, into
memory that is mapped already; `device_put` maps its own, that is how it works. The link is timed
from Python with its submission and wait, bare copies by their own clock once their threads are
there. Shares and waits are counted in chunks, from the link's history.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import jax
import numpy as np
from rich.console import Console

from benchmarks.report import Report
from missile_jax import _native
from missile_jax.memory.link import make_link

KIB, MIB = 1 << 10, 1 << 20
SIZES = (64 * KIB, 256 * KIB, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 128 * MIB, 256 * MIB)
# From here on the figures of the summary are taken: nothing fits in a cache.
LARGE = 64 * MIB
BARE = {
    f"{threads} {'non-temporal' if streams else 'plain'}": (threads, streams)
    for threads in (1, 2)
    for streams in (False, True)
}
WEIGHTS = (1, 2, 4, 8)
WINDOW = 500


def run(quick: bool, seed: int, console: Console) -> Report:
    report = Report("link", seed)
    with TemporaryDirectory() as cache:
        link = make_link(Path(cache), history=1 << 16)
    report.summary |= {
        "link_threads": link.threads,
        "link_non_temporal": link.non_temporal,
        "streaming_stores": _native.streaming_stores(),
    }
    try:
        console.print("[dim]rates[/]")
        _rates(report, link, (1 if quick else 4) << 30)
        console.print("[dim]shares[/]")
        _shares(report, link, 3_000 if quick else 15_000)
        console.print("[dim]waits of LS copies[/]")
        _waits(report, link, 300 if quick else 2_000)
    finally:
        link.close()
    return report


# -- rates ---------------------------------------------------------------------------------------


def _rates(report: Report, link: _native.Link, budget_bytes: int) -> None:
    rng = np.random.default_rng(report.seed)
    flow = link.flow("rates")
    source, destination = _mapped(max(SIZES)), _mapped(max(SIZES))
    source[:] = rng.integers(0, 256, len(source), np.uint8)
    # What is aligned to 64 bytes becomes an array on a CPU as it is: no copy to compare with.
    unaligned = _mapped(max(SIZES) + 4)[4:]
    unaligned[:] = source
    for size in SIZES:
        ways = _ways(flow, destination[:size], source[:size], unaligned[:size])
        turns = int(np.clip(budget_bytes // size, 5, 400))
        times = {name: np.empty(turns) for name in ways}
        for name in ways:
            ways[name]()
        for turn in range(turns):
            for name in rng.permutation(list(ways)):
                times[name][turn] = ways[name]()
        rate = {name: size / float(np.median(taken)) / 1e9 for name, taken in times.items()}
        best = max(BARE, key=lambda name: rate[name])
        row = {"size_kib": size // KIB, "turns": turns, "best_bare": best}
        row |= {"bare_gb_per_s": rate[best]}
        # Of the same turn, since the machine's rate drifts.
        row |= {
            f"link_over_{other}": float(np.median(times[way] / times["link"]))
            for other, way in {"bare": best, "pinned_host": "pinned_host", "numpy": "numpy"}.items()
        }
        row |= {f"{name}_gb_per_s": rate[name] for name in ("link", "pinned_host", "numpy")}
        row |= {f"bare {name} gb_per_s": rate[name] for name in BARE}
        report.rows.append(row)
    flow.close()
    _summarize_rates(report)


def _summarize_rates(report: Report) -> None:
    large = [row for row in report.rows if row["size_kib"] >= LARGE // KIB]
    small = report.rows[0]

    report.summary |= {
        "vs_bare_copy": min(row["link_over_bare"] for row in large),
        "vs_device_put": min(row["link_over_pinned_host"] for row in large),
        "vs_device_put_64KiB": small["link_over_pinned_host"],
        "vs_device_put_numpy": min(row["link_over_numpy"] for row in large),
        "vs_device_put_numpy_64KiB": small["link_over_numpy"],
        "link_gb_per_s": min(row["link_gb_per_s"] for row in large),
    }


def _ways(
    flow: _native.Flow, destination: np.ndarray, source: np.ndarray, unaligned: np.ndarray
) -> dict[str, Callable[[], float]]:
    """Each copies the whole of `source` and returns the seconds it took."""
    device = jax.local_devices(backend="cpu")[0]
    on_device = jax.sharding.SingleDeviceSharding(device, memory_kind="device")
    on_host = jax.sharding.SingleDeviceSharding(device, memory_kind="pinned_host")
    pinned = jax.block_until_ready(jax.device_put(source, on_host))
    size = len(source)

    def link() -> float:
        start = time.perf_counter_ns()
        flow.copy(destination, 0, source, 0, size).wait()
        return (time.perf_counter_ns() - start) / 1e9

    def device_put(array: np.ndarray | jax.Array) -> float:
        start = time.perf_counter_ns()
        jax.device_put(array, on_device, may_alias=False).block_until_ready()
        return (time.perf_counter_ns() - start) / 1e9

    def bare(threads: int, streams: bool) -> float:
        return _native.bare_copy_ns(destination, source, threads, streams) / 1e9

    ways: dict[str, Callable[[], float]] = {
        name: (lambda way=way: bare(*way)) for name, way in BARE.items()
    }
    ways["link"] = link
    ways["pinned_host"] = lambda: device_put(pinned)
    ways["numpy"] = lambda: device_put(unaligned)
    return ways


def _mapped(size_bytes: int) -> np.ndarray:
    """Memory that is mapped, in huge pages where the kernel gives them."""
    block = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        block.madvise(mmap.MADV_HUGEPAGE)
    array = np.frombuffer(block, np.uint8)
    array[:] = 1
    return array


# -- turns ---------------------------------------------------------------------------------------


def _endless(flow: _native.Flow, chunk_bytes: int) -> _native.Copy:
    """Far more than is waited for, over and over the same megabytes: to be cancelled."""
    size = 16 * chunk_bytes
    return flow.copy_many(_mapped(size), _mapped(size), [(0, 0, size)] * (1 << 15))


def _shares(report: Report, link: _native.Link, chunks: int) -> None:
    """Tenants of several weights, all with work: what each has in any 500 chunks."""
    flows = {weight: link.flow(f"weight {weight}", weight) for weight in WEIGHTS}
    heaviest = max(WEIGHTS)
    waiting = [_endless(flows[weight], link.chunk_bytes) for weight in WEIGHTS if weight < heaviest]
    # All have work from its first chunk to its last.
    size = 16 * link.chunk_bytes
    pieces = chunks * heaviest // sum(WEIGHTS) // 16
    flows[heaviest].copy_many(_mapped(size), _mapped(size), [(0, 0, size)] * pieces).wait()
    rows = link.history(1 << 16)
    for copy in waiting:
        copy.cancel()
        copy.wait()
    mine = np.flatnonzero(rows[:, 0] == flows[heaviest].id)
    rows = rows[mine[0] : mine[-1] + 1]
    shares = {}
    for weight, flow in flows.items():
        had = np.concatenate([[0], np.cumsum(np.where(rows[:, 0] == flow.id, rows[:, 1], 0))])
        total = np.concatenate([[0], np.cumsum(rows[:, 1])])
        shares[weight] = (had[WINDOW:] - had[:-WINDOW]) / (total[WINDOW:] - total[:-WINDOW])
        report.rows.append(
            {
                "weight": weight,
                "share_due": weight / sum(WEIGHTS),
                "share": float(shares[weight].mean()),
                "share_least": float(shares[weight].min()),
                "share_most": float(shares[weight].max()),
                "windows": len(shares[weight]),
            }
        )
        flow.close()
    errors = [np.abs(had - weight / sum(WEIGHTS)).max() for weight, had in shares.items()]
    normal = np.stack([had / weight for weight, had in shares.items()])
    jain = normal.sum(0) ** 2 / (len(WEIGHTS) * (normal**2).sum(0))
    report.summary |= {"share_error_max": float(max(errors)), "jain": float(jain.min())}


def _waits(report: Report, link: _native.Link, copies: int) -> None:
    """LS copies, one at a time after random pauses, beside tenants with endless work."""
    rng = np.random.default_rng(report.seed)
    flows = [link.flow(f"best effort {k}") for k in range(4)]
    background = [_endless(flow, link.chunk_bytes) for flow in flows]
    urgent = link.flow("latency", latency=True)
    source, destination = _mapped(4 * MIB), _mapped(4 * MIB)
    waits = np.empty((copies, 2))
    for k in range(copies):
        time.sleep(rng.exponential(0.5e-3))
        size = int(np.exp(rng.uniform(np.log(4 * KIB), np.log(4 * MIB))))
        copy = urgent.copy(destination, 0, source, 0, size)
        copy.wait()
        waits[k] = copy.waited_chunks, (copy.started_ns - copy.submitted_ns) / 1e3
    if any(copy.done for copy in background):
        raise RuntimeError("the best-effort copies ended before the latency copies did")
    for flow, copy in zip(flows, background, strict=True):
        copy.cancel()
        copy.wait()
        flow.close()
    urgent.close()
    chunks_p99, us_p99 = np.percentile(waits, 99, axis=0)
    report.summary |= {
        "ls_wait_chunks_p99": float(chunks_p99),
        "ls_wait_chunks_max": float(waits[:, 0].max()),
        "ls_wait_us_p50": float(np.median(waits[:, 1])),
        "ls_wait_us_p99": float(us_p99),
    }
