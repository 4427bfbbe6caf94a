"""`python -m benchmarks NAME`: runs a benchmark, prints its table, writes its JSON and plot."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
console = Console()

Json = Annotated[Path | None, typer.Option("--json", help="Write the result here.")]
Quick = Annotated[bool, typer.Option("--quick", help="Fewer requests and mixes.")]
Seed = Annotated[int, typer.Option(help="Of arrivals, inputs and the bootstrap.")]


@app.command()
def colocation(
    quick: Quick = False,
    json: Json = None,
    seed: Seed = 0,
    trace: Annotated[Path | None, typer.Option(help="Arrivals from a trace file.")] = None,
    policies: Annotated[
        str,
        typer.Option(
            help="Comma-separated; also missile-cut, in segments, and missile-after, which waits."
        ),
    ] = "concurrent,fifo,missile",
) -> None:
    """LS tail and BE throughput side by side, for each policy."""
    from benchmarks import colocation as bench
    from benchmarks.plots import plot_colocation

    chosen = bench.settings(quick, seed, trace, policies.split(","))
    report, raw = bench.run(chosen, console)
    report.print(
        "colocation",
        ["load_percent", "mix", "policy", "p50_ms", "p95_ms", "p99_ms", "be_items_per_s",
         "be_share_of_leftover", "requests"],
    )  # fmt: skip
    if json is not None:
        report.write(json)
        np.savez_compressed(json.with_suffix(".npz"), **dict[str, Any](raw))
        plot_colocation(json)


@app.command()
def processes(
    quick: Quick = False,
    json: Json = None,
    seed: Seed = 0,
    systems: Annotated[
        str, typer.Option(help="Comma-separated.")
    ] = "uncontrolled,nice19,sched_idle,missile_turns,missile",
    wrap: Annotated[
        Path | None, typer.Option(help="The PJRT plugin that all processes run on.")
    ] = None,
) -> None:
    """LS tail and BE rate of processes that share a device: the system's ways, and missile's."""
    from benchmarks import processes as bench

    chosen = bench.settings(quick, seed, systems.split(","), bench.plugin(wrap))
    report = bench.run(chosen, console)
    report.print(
        "processes",
        ["launches", "processes", "system", "p50_ms", "p99_ms", "be_share_of_leftover",
         "longest_step_ms", "requests"],
    )  # fmt: skip
    _print_summary(report.summary)
    if json is not None:
        report.write(json)


@app.command()
def overhead(quick: Quick = False, json: Json = None, seed: Seed = 0) -> None:
    """A request through Runtime and HTTP against bare ones; segments against whole models."""
    from benchmarks import overhead as bench

    report = bench.run(quick, seed, console)
    report.print("overhead", ["what", "p50_us", "p99_us", "n", "segments", "bit_identical"])
    _print_summary(report.summary)
    if json is not None:
        report.write(json)


@app.command()
def serving(
    quick: Quick = False,
    json: Json = None,
    seed: Seed = 0,
    peers: Annotated[
        str, typer.Option(help="Comma-separated servers to compare with, each installed first.")
    ] = "mlserver,kserve,ray_serve,litserve,pytriton",
    protocols: Annotated[str, typer.Option(help="Comma-separated: http, grpc.")] = "http,grpc",
) -> None:
    """The door against a bare handler and other servers, and beside clients that behave badly."""
    from benchmarks import serving as bench

    chosen = bench.settings(quick, seed, [p for p in peers.split(",") if p], protocols.split(","))
    report = bench.run(chosen, console)
    report.print(
        "serving",
        ["what", "model", "connections", "p50_ms", "p99_ms", "rps", "errors", "missing"],
    )  # fmt: skip
    _print_summary(report.summary)
    if json is not None:
        report.write(json)


@app.command()
def swap(quick: Quick = False, json: Json = None, seed: Seed = 0) -> None:
    """A request to a model that has to come to the device first, against one that is there."""
    from benchmarks import swap as bench
    from benchmarks.plots import plot_swap

    report = bench.run(quick, seed, console)
    report.print(
        "swap",
        ["model", "bus", "parameter_mb", "heavy", "resident_ms", "swapped_ms", "bound_ms",
         "ratio_to_bound", "ratio_to_resident", "us_per_leaf"],
    )  # fmt: skip
    report.print(
        "swap, broken down",
        ["model", "device_put_ms", "copied_ms", "each_ms", "grouped_ms", "prefetched_ms",
         "resident_ms"],
        where="device_put_ms",
    )  # fmt: skip
    _print_summary(report.summary)
    if json is not None:
        report.write(json)
        plot_swap(json)


@app.command()
def density(
    quick: Quick = False,
    json: Json = None,
    seed: Seed = 0,
    trace: Annotated[Path | None, typer.Option(help="Calls from a trace file.")] = None,
) -> None:
    """Functions on a device with room for a tenth of them: how many meet their objective."""
    from benchmarks import density as bench
    from benchmarks.plots import plot_density

    report = bench.run(bench.settings(quick, seed, trace), console)
    report.print(
        "density",
        ["case", "load_percent", "system", "compliant", "p50_ms", "p98_ms", "p98_ratio",
         "late_share", "swap_share", "device_busy"],
    )  # fmt: skip
    _print_summary(report.summary)
    if json is not None:
        report.write(json)
        plot_density(json)


@app.command()
def alloc(quick: Quick = False, json: Json = None, seed: Seed = 0) -> None:
    """The arena under a day of models that come and go."""
    from benchmarks import alloc as bench
    from benchmarks.plots import plot_alloc

    report = bench.run(*((2_000, 100) if quick else (40_000, 1_000)), seed)
    report.print(
        "alloc",
        ["what", "n", "p50_us", "p99_us", "p999_us", "max_us", "minor_faults", "swap_ins"],
        where="what",
    )
    _print_summary(report.summary)
    if json is not None:
        report.write(json)
        plot_alloc(json)


@app.command()
def channels(quick: Quick = False, json: Json = None, seed: Seed = 0) -> None:
    """What a plan of VRAM channels is worth, on GPUs that are simulated from data sheets."""
    from benchmarks import channels as bench
    from benchmarks.plots import plot_channels

    report = bench.run(quick, seed, console)
    report.print(
        "channels",
        ["case", "ls", "be", "layout", "p50_ms", "p99_ms", "p99_change", "be_rate_per_s",
         "be_rate_change", "overlap"],
        where="layout",
    )  # fmt: skip
    report.print(
        "channels, if one thing is otherwise",
        ["what", "gpu", "p99_change.static", "be_rate_change.static", "p99_change.bimodal",
         "be_rate_change.bimodal"],
        where="what",
    )  # fmt: skip
    _print_summary(report.summary)
    if json is not None:
        report.write(json)
        plot_channels(json)


@app.command()
def granules(quick: Quick = False, json: Json = None, seed: Seed = 0) -> None:
    """Coloured memory under tensors that come and go, and under plans that change."""
    from benchmarks import granules as bench

    report = bench.run(quick, seed)
    report.print(
        "granules",
        ["what", "n", "p50_us", "p99_us", "p999_us", "cpu_p50_us", "cpu_p99_us"],
        where="p99_us",
    )
    report.print("granules, how full", ["case", "tensors", "utilisation", "waste", "waste_p99"],
                 where="waste")  # fmt: skip
    _print_summary(report.summary)
    if json is not None:
        report.write(json)


@app.command()
def link(quick: Quick = False, json: Json = None, seed: Seed = 0) -> None:
    """Copies over the link against bare ones and `jax.device_put`; shares; waits of LS copies."""
    from benchmarks import link as bench
    from benchmarks.plots import plot_link

    report = bench.run(quick, seed, console)
    report.print(
        "link",
        ["size_kib", "best_bare", "bare_gb_per_s", "link_gb_per_s", "pinned_host_gb_per_s",
         "numpy_gb_per_s", "turns"],
    )  # fmt: skip
    _print_summary(report.summary)
    if json is not None:
        report.write(json)
        plot_link(json)


@app.command()
def wrapper(quick: Quick = False, json: Json = None, seed: Seed = 0) -> None:
    """The PJRT wrapper against the bare plugin: a call, a launch, an upload, a ResNet-50 step."""
    from benchmarks import wrapper as bench

    report = bench.run(quick, seed, console)
    report.print("wrapper", ["what", "bare_us", "missile_us", "extra_ns", "ratio", "n"])
    _print_summary(report.summary)
    if json is not None:
        report.write(json)


@app.command()
def soak(
    seconds: Annotated[float, typer.Option(min=1.0, help="Length of the run.")] = 60.0,
    json: Json = None,
    seed: Seed = 0,
) -> None:
    """Random cancels, deadlines, loads and unloads; fails if anything is lost, hangs or leaks."""
    from benchmarks import soak as bench

    report = bench.run(seconds, seed)
    report.print("soak", ["what", "n"])
    _print_summary(report.summary)
    if json is not None:
        report.write(json)
    if faults := bench.faults(report.summary):
        console.print(*faults, sep="\n")
        raise typer.Exit(1)


@app.command()
def swap_soak(
    operations: Annotated[int, typer.Option(min=10, help="Requests and evictions.")] = 100_000,
    json: Json = None,
    seed: Seed = 0,
) -> None:
    """Evictions that race launches; fails if an answer is wrong or an operation fails."""
    from benchmarks import swap_soak as bench

    report = bench.run(operations, seed)
    report.print("swap-soak", ["what", "n"])
    _print_summary(report.summary)
    if json is not None:
        report.write(json)
    if report.summary["wrong"] or report.summary["failed"]:
        raise typer.Exit(1)


@app.command()
def reload_soak(
    seconds: Annotated[float, typer.Option(min=5.0, help="Length of the run.")] = 60.0,
    json: Json = None,
    seed: Seed = 0,
) -> None:
    """Models loaded anew under load; fails if an answer is missing or of a wrong version."""
    from benchmarks import reload_soak as bench

    report = bench.run(seconds, seed)
    report.print("reload-soak", ["what", "n"])
    _print_summary(report.summary)
    if json is not None:
        report.write(json)
    summary = report.summary
    if summary["failed"] or summary["wrong"] or summary["failed_reloads"]:
        raise typer.Exit(1)


@app.command()
def store_soak(
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of it.")] = False,
    json: Json = None,
    seed: Seed = 0,
) -> None:
    """Writers killed at random moments and bits flipped; fails if a store is torn or misses one."""
    from benchmarks import store_soak as bench

    times = 20 if quick else 200
    report = bench.run(times, times, seed, console)
    _print_summary(report.summary)
    if json is not None:
        report.write(json)
    summary = report.summary
    if summary["torn"] or summary["leftovers_not_removed"] or summary["flips_found"] < times:
        raise typer.Exit(1)


@app.command()
def door_soak(
    kills: Annotated[int, typer.Option(min=8, help="Clients that are killed.")] = 1000,
    ls_seconds: Annotated[float, typer.Option(min=0.5, help="Of each load of LS requests.")] = 20.0,
    json: Json = None,
    seed: Seed = 0,
) -> None:
    """Clients killed in the middle of what they do; fails if anything is left of them."""
    from benchmarks import door_soak as bench

    report = bench.run(kills, ls_seconds, seed)
    report.print("door-soak", ["what", "n", "p50_ms", "p99_ms", "errors"])
    _print_summary(report.summary)
    if json is not None:
        report.write(json)
    if bench.failed(report):
        raise typer.Exit(1)


@app.command()
def arbiter_soak(
    kills: Annotated[
        int, typer.Option(min=1, help="Of best-effort processes, and arbiters.")
    ] = 100,
    over_cap: Annotated[int, typer.Option(min=0, help="Allocations past a cap.")] = 1000,
    hostile_seconds: Annotated[float, typer.Option(min=0.1, help="Of random pages.")] = 10.0,
    json: Json = None,
    seed: Seed = 0,
    wrap: Annotated[
        Path | None, typer.Option(help="The PJRT plugin of the process with a cap.")
    ] = None,
) -> None:
    """Holders and arbiters killed, foul tenants; fails if LS stalls or anything is left."""
    from benchmarks import arbiter_soak as bench
    from benchmarks.processes import plugin

    report = bench.run(kills, over_cap, hostile_seconds, seed, plugin(wrap))
    report.print(
        "arbiter-soak",
        ["what", "ls_requests", "stall_p50_ms", "stall_p99_ms", "stall_max_ms", "slipped"],
    )  # fmt: skip
    _print_summary(report.summary)
    if json is not None:
        report.write(json)
    if bench.failed(report):
        raise typer.Exit(1)


@app.command()
def fuzz(
    inputs: Annotated[int, typer.Option(min=1, help="For each decoder.")] = 1_000_000,
    only: Annotated[str | None, typer.Option(help="One decoder.")] = None,
    json: Json = None,
    seed: Seed = 0,
) -> None:
    """Bytes that no client should send, mutated further; fails if anything but CodecError comes."""
    from benchmarks import fuzz as bench

    report = bench.run(inputs, seed, only)
    report.print("fuzz", ["what", "n", "failed", "coverage", "rss_mb", "rss_growth_mb"])
    _print_summary(report.summary)
    if json is not None:
        report.write(json)
    if report.summary["failed"]:
        raise typer.Exit(1)


@app.command()
def recover(quick: Quick = False, json: Json = None, seed: Seed = 0) -> None:
    """Channel maps found from simulated timings alone, and maps without structure refused."""
    from benchmarks import recover as bench
    from benchmarks.plots import plot_recover

    report = bench.run(quick, seed, console)
    _print_summary(report.summary)
    if json is not None:
        report.write(json)
        plot_recover(json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for results.")] = Path("out/demo"),
    seed: Seed = 0,
) -> None:
    """A photo classifier beside best-effort models, live in the terminal."""
    from benchmarks import demo as bench

    bench.run(out, seed, console)


@app.command()
def readme() -> None:
    """Fill the tables of README.md and docs/ from the committed JSON."""
    from benchmarks.readme import PAGES, RESULTS, fill

    for page in PAGES:
        page.write_text(fill(page.read_text(), RESULTS))


def _print_summary(summary: dict) -> None:
    for key, value in summary.items():
        console.print(f"  {key}: {value:.4g}" if isinstance(value, float) else f"  {key}: {value}")


if __name__ == "__main__":
    app()
