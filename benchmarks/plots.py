"""Plots, drawn from a benchmark's JSON alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

_COLORS = {
    "ideal": "#999999",
    "alone": "#555555",
    "concurrent": "#d95f02",
    "fifo": "#e6ab02",
    "missile": "#1b6ca8",
    "missile-after": "#7fb3d5",
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
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    picture = path.with_suffix(".png")
    figure.savefig(picture, dpi=120)
    plt.close(figure)
    return picture


def plot_latencies(picture: Path, latencies_s: dict[str, Any]) -> None:
    """Share of requests that took longer than a time, both axes logarithmic."""
    figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
    for name, values in latencies_s.items():
        ordered = np.sort(values) * 1e3
        share = 1.0 - np.arange(len(ordered)) / len(ordered)
        axes.step(ordered, share, where="post", label=name, color=_COLORS.get(name, "#555555"))
    axes.set(xscale="log", yscale="log", xlabel="LS latency, ms", ylabel="share of requests slower")
    axes.axhline(0.01, color="black", linewidth=0.8, linestyle=":")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(picture, dpi=120)
    plt.close(figure)
