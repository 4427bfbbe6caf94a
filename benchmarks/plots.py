"""Plots, drawn from a benchmark's JSON alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

_COLORS = {
    "ideal": "#999999",
    "urgent": "#444444",
    "alone": "#555555",
    "concurrent": "#d95f02",
    "fifo": "#e6ab02",
    "missile": "#1b6ca8",
    "missile-cut": "#1b6ca8",
    "missile-after": "#7fb3d5",
    "light_first": "#2e86c1",
    "lru": "#7fb3d5",
    "cold": "#d95f02",
    "native": "#e6ab02",
}


def plot_colocation(path: Path) -> Path:
    """LS p99 and BE share by load, the worst mix. Returns the picture's path beside the JSON."""
    summary = json.loads(path.read_text())["summary"]
    loads = sorted({int(key.rsplit(".", 1)[1]) for key in summary if key.startswith("ls_p99_ms.")})
    policies = list(dict.fromkeys(k.split(".")[1] for k in summary if k.startswith("ls_p99_ms.")))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    series: dict[str, list[Any]] = {
        "ideal": [summary[f"ls_p99_ideal_ms.{load}"] for load in loads],
        "alone": [summary[f"ls_p99_alone_ms.{load}"] for load in loads],
    }
    series |= {p: [summary[f"ls_p99_ms.{p}.{load}"] for load in loads] for p in policies}
    for name, values in series.items():
        style = "--" if name in ("ideal", "alone") else "-"
        left.plot(loads, values, style, marker="o", color=_COLORS.get(name), label=name)
    left.set(yscale="log", xlabel="LS load, % of the device", ylabel="LS p99, ms", xticks=loads)
    left.legend(frameon=False, fontsize=8)
    width = 6.0 / max(1, len(policies))
    for k, policy in enumerate(policies):
        shares = [summary[f"be_share_of_leftover.{policy}.{load}"] for load in loads]
        at = [load + (k - (len(policies) - 1) / 2) * width for load in loads]
        right.bar(at, shares, width=width * 0.9, color=_COLORS.get(policy), label=policy)
    right.axhline(0.9, color="black", linewidth=0.8, linestyle=":")
    right.set(xlabel="LS load, % of the device", ylabel="BE share of what is left", xticks=loads)
    right.legend(frameon=False, fontsize=8)
    return _save(figure, path.with_suffix(".png"))


def plot_swap(path: Path) -> Path:
    """Latency resident, swapped and the bound, for each model and bus; beside it, as *breakdown*,
    what each way of bringing a model takes. Returns the first picture's path beside the JSON."""
    rows = json.loads(path.read_text())["rows"]
    buses = list(dict.fromkeys(row["bus"] for row in rows))
    bars = {"resident": "#555555", "bound": "#999999", "swapped": "#1b6ca8"}
    figure, all_axes = plt.subplots(
        1, len(buses), figsize=(4.2 * len(buses), 3.8), layout="constrained", sharey=True
    )
    for axes, bus in zip(all_axes, buses, strict=True):
        _bars(axes, [row for row in rows if row["bus"] == bus], bars)
        axes.set_title(f"{bus} link")
    all_axes[0].set_ylabel("latency, ms")
    all_axes[0].legend(frameon=False, fontsize=8)
    _plot_breakdown(path.with_name(f"{path.stem}-breakdown.png"), rows)
    return _save(figure, path.with_suffix(".png"))


def _plot_breakdown(picture: Path, rows: list[dict[str, Any]]) -> None:
    figure, axes = plt.subplots(figsize=(9, 3.8), layout="constrained")
    bars = {
        "device_put": "#d95f02",
        "copied": "#e6ab02",
        "each": "#b8d4e8",
        "grouped": "#1b6ca8",
        "prefetched": "#0b3c5d",
        "resident": "#555555",
    }
    _bars(axes, [row for row in rows if "device_put_ms" in row], bars)
    axes.set_ylabel("latency, ms")
    axes.legend(frameon=False, fontsize=8, ncols=2)
    _save(figure, picture)


def _bars(axes: Any, rows: list[dict[str, Any]], colors: dict[str, str]) -> None:
    """A group of bars for each model, one for each kind of latency."""
    at, width = np.arange(len(rows)), 0.8 / len(colors)
    for k, (name, color) in enumerate(colors.items()):
        values = [row[f"{name}_ms"] for row in rows]
        middle = at + (k - (len(colors) - 1) / 2) * width
        axes.bar(middle, values, width=width * 0.92, color=color, label=name)
    axes.set(yscale="log", xticks=at)
    axes.set_xticklabels([row["model"] for row in rows], rotation=40, ha="right", fontsize=8)


def plot_density(path: Path) -> Path:
    """Share of functions within their SLO, and how late calls were, at the highest load of each
    case. Returns the picture's path beside the JSON."""
    rows = json.loads(path.read_text())["rows"]
    load = max(row["load_percent"] for row in rows)
    rows = [row for row in rows if row["load_percent"] == load]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    figure, (left, *others) = plt.subplots(
        1, 1 + len(cases), figsize=(4.2 * (1 + len(cases)), 3.8), layout="constrained"
    )
    systems = list(dict.fromkeys(row["system"] for row in rows))
    width = 0.8 / len(systems)
    for k, system in enumerate(systems):
        shares = [row["compliant"] for row in rows if row["system"] == system]
        at = np.arange(len(cases)) + (k - (len(systems) - 1) / 2) * width
        left.bar(at, shares, width=width * 0.9, color=_COLORS[system], label=system)
    left.set(ylabel="functions within their SLO", xticks=range(len(cases)), xticklabels=cases,
             ylim=(0, 1.2), yticks=np.linspace(0, 1, 6))  # fmt: skip
    left.legend(frameon=False, fontsize=8, ncols=3, loc="upper center")
    for axes, case in zip(others, cases, strict=True):
        for row in (row for row in rows if row["case"] == case):
            percentiles = row["ratio_percentiles"]
            share = [1 - float(p) / 100 for p in percentiles]
            axes.plot(list(percentiles.values()), share, marker="o", label=row["system"],
                      color=_COLORS[row["system"]])  # fmt: skip
        axes.axvline(3, color="black", linewidth=0.8, linestyle=":")
        axes.axhline(0.02, color="black", linewidth=0.8, linestyle=":")
        axes.set(xscale="log", yscale="log", title=f"{case}, {load} % busy",
                 xlabel="latency over resident p50", ylabel="share of calls slower")  # fmt: skip
        axes.set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
        axes.set_xticks([], minor=True)
    return _save(figure, path.with_suffix(".png"))


def plot_channels(path: Path) -> Path:
    """Changes by GPU and layout, and by coloured share. Simulated, as its title says. Returns the
    picture's path beside the JSON."""
    data = json.loads(path.read_text())
    summary = data["summary"]
    gpus = [key.split(".")[1] for key in summary if key.startswith("ls_p99_change.")]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    bars = {
        "static": ("ls_p99_change", "#1b6ca8"),
        "bimodal": ("ls_p99_change_bimodal", "#7fb3d5"),
        "static, all coloured": ("ls_p99_change_all_coloured", "#e6ab02"),
        "paper, other models": ("paper_ls_p99_change", "#555555"),
    }
    at = np.arange(len(gpus))
    for k, (name, (key, color)) in enumerate(bars.items()):
        values = [100 * summary.get(f"{key}.{gpu}", np.nan) for gpu in gpus]
        left.bar(at + (k - 1.5) * 0.2, values, width=0.18, color=color, label=name)
    left.set(xticks=at, xticklabels=gpus, ylabel="LS p99 over no isolation, %")
    left.axhline(0, color="black", linewidth=0.8)
    left.legend(frameon=False, fontsize=8)
    shares = [row for row in data["rows"] if row.get("what", "").startswith("coloured share")]
    for gpu, color in (("P40", "#1b6ca8"), ("A2000", "#d95f02")):
        rows = [row for row in shares if row["gpu"] == gpu]
        x = [float(row["what"].split()[-1]) for row in rows]
        right.plot([0, *x], [0, *(100 * row["p99_change.static"] for row in rows)], marker="o",
                   color=color, label=gpu)  # fmt: skip
    right.axhline(0, color="black", linewidth=0.8)
    right.set(xlabel="coloured share of all bytes", ylabel="LS p99 over no isolation, %")
    right.legend(frameon=False, fontsize=8)
    figure.suptitle("simulated", fontsize=9)
    return _save(figure, path.with_suffix(".png"))


def plot_link(path: Path) -> Path:
    """Rates by size, and shares in any 500 chunks. Returns the picture's path beside the JSON."""
    rows = json.loads(path.read_text())["rows"]
    sizes = [row for row in rows if "size_kib" in row]
    shares = [row for row in rows if "weight" in row]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    series = {
        "best bare copy": ("bare_gb_per_s", "#555555", "--"),
        "link": ("link_gb_per_s", "#1b6ca8", "-"),
        "device_put, numpy": ("numpy_gb_per_s", "#e6ab02", "-"),
        "device_put, pinned_host": ("pinned_host_gb_per_s", "#d95f02", "-"),
    }
    for name, (key, color, style) in series.items():
        left.plot([row["size_kib"] for row in sizes], [row[key] for row in sizes], style,
                  marker="o", color=color, label=name)  # fmt: skip
    left.set(xscale="log", yscale="log", xlabel="size, KiB", ylabel="GB/s")
    left.legend(frameon=False, fontsize=8)
    at = np.arange(len(shares))
    middle = np.array([row["share"] for row in shares])
    spread = np.abs([[row["share_least"], row["share_most"]] for row in shares] - middle[:, None])
    right.bar(at, middle, color="#1b6ca8", yerr=spread.T, capsize=4)
    right.scatter(at, [row["share_due"] for row in shares], color="black", marker="_", s=900)
    right.set(xticks=at, xticklabels=[f"weight {row['weight']}" for row in shares],
              ylabel="share of bytes in any 500 chunks")  # fmt: skip
    return _save(figure, path.with_suffix(".png"))


def plot_alloc(path: Path) -> Path:
    """Times of the arena's calls, and how fragmented it is. Returns the picture's path beside the
    JSON."""
    rows = json.loads(path.read_text())["rows"]
    calls = [row for row in rows if "p99_us" in row and "minor_faults" not in row]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    at = np.arange(len(calls))
    colors = {"p50": "#b8d4e8", "p99": "#1b6ca8", "p999": "#0b3c5d"}
    for k, (name, color) in enumerate(colors.items()):
        values = [row[f"{name}_us"] for row in calls]
        left.bar(at + (k - 1) * 0.27, values, width=0.25, color=color, label=name)
    left.axhline(10, color="black", linewidth=0.8, linestyle=":")
    left.set(yscale="log", ylabel="us", xticks=at, xticklabels=[row["what"] for row in calls])
    left.legend(frameon=False, fontsize=8)
    names = {
        "fragmentation": ("in holes no full group fits into", "#1b6ca8"),
        "external": ("outside of the largest hole", "#d95f02"),
    }
    for row in (row for row in rows if "measure" in row):
        name, color = names[row["measure"]]
        right.plot(row["percentiles"], np.linspace(0, 1, 101), color=color, label=name)
    right.axvline(0.1, color="black", linewidth=0.8, linestyle=":")
    right.set(xlabel="share of free memory", ylabel="share of placements with less")
    right.legend(frameon=False, fontsize=8)
    return _save(figure, path.with_suffix(".png"))


def plot_latencies(picture: Path, latencies_s: dict[str, Any]) -> None:
    """Share of requests that took longer than a time, both axes logarithmic."""
    figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for name, values in latencies_s.items():
        ordered = np.sort(values) * 1e3
        share = 1.0 - np.arange(len(ordered)) / len(ordered)
        axes.step(ordered, share, where="post", label=name, color=_COLORS.get(name, "#555555"))
    axes.set(xscale="log", yscale="log", xlabel="LS latency, ms", ylabel="share of requests slower")
    axes.axhline(0.01, color="black", linewidth=0.8, linestyle=":")
    axes.legend(frameon=False, fontsize=8)
    _save(figure, picture)


def plot_recover(path: Path) -> Path:
    """How many probes maps of each family take, and how that grows with noise. Simulated."""
    data = json.loads(path.read_text())
    families = ["xor", "6", "12", "36", "80"]
    names = {"xor": "XOR"} | {m: f"{m} channels" for m in families[1:]}
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for family in families:
        rows = [row for row in data["rows"] if row["family"] == family]
        tried = [row for row in rows if "sweep" not in row]
        probes = sorted(row["probes"] for row in tried if "probes" in row)
        # All granules of a map that was found are counted, none of one that is not yet.
        right_ones = sorted((row["probes"], row["accuracy"]) for row in tried if "probes" in row)
        share = np.cumsum([accuracy for _, accuracy in right_ones]) / len(tried)
        left.step(probes, share, where="post", label=names[family])
        swept = [row for row in rows if "sweep" in row]
        noises = sorted({row["wrong"] for row in swept})
        by_noise = [[row for row in swept if row["wrong"] == noise] for noise in noises]
        accuracy = [np.mean([row["accuracy"] for row in some]) for some in by_noise]
        taken = [
            np.median([row["probes"] for row in some if "probes" in row] or [np.nan])
            for some in by_noise
        ]
        percent = [100 * noise for noise in noises]
        middle.plot(percent, taken, marker="o", label=names[family])
        right.plot(percent, accuracy, marker="o", label=names[family])
    left.set(xlabel="probes", ylabel="granules right, mean over maps", title="5 % wrong answers")
    middle.set(xlabel="wrong answers, %", ylabel="probes, median", yscale="log")
    right.set(xlabel="wrong answers, %", ylabel="granules right, mean; refused: 0")
    left.legend(frameon=False, fontsize=8)
    figure.suptitle("Recovery of channel maps (simulated)")
    return _save(figure, path.with_suffix(".png"))


def _save(figure: Figure, picture: Path) -> Path:
    """Writes the figure, without frames, and returns where."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=120)
    plt.close(figure)
    return picture
