"""Fills the tables of README.md and docs/ from the committed JSON.

`python -m benchmarks readme` writes them; a test checks that they are what it would write.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path("benchmarks/results")
PAGES = (
    Path("README.md"),
    Path("docs/benchmarks.md"),
    Path("docs/plugin.md"),
    Path("docs/channel-plans.md"),
    Path("docs/scheduling.md"),
)
# In place of a table whose JSON is not committed.
NOT_RUN = "No such run is committed yet."

Json = dict[str, Any]


def fill(page: str, results: Path) -> str:
    """`page` with each table between ``<!-- name -->`` and ``<!-- /name -->`` made anew."""

    def make(match: re.Match[str]) -> str:
        name = match[1]
        table, path = _TABLES[name], results / f"{name.partition('-')[0]}.json"
        text = table(json.loads(path.read_text())) if path.exists() else NOT_RUN
        return f"<!-- {name} -->\n{text}\n<!-- /{name} -->"

    return re.sub(r"<!-- ([\w-]+) -->\n.*?<!-- /\1 -->", make, page, flags=re.DOTALL)


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _colocation(data: Json) -> str:
    summary = data["summary"]
    loads = sorted({int(k.rsplit(".", 1)[1]) for k in summary if k.startswith("ls_p99_limit")})
    policies = list(dict.fromkeys(r["policy"] for r in data["rows"] if r["mix"]))
    head = ["LS load", "ideal p99", "alone p99"]
    head += [f"{policy} p99" for policy in policies] + [f"{policy} BE share" for policy in policies]
    rows = []
    for load in loads:
        row = [f"{load} %"]
        row += [f"{summary[f'ls_p99_{r}_ms.{load}']:.0f} ms" for r in ("ideal", "alone")]
        row += [f"{summary[f'ls_p99_ms.{p}.{load}']:.0f} ms" for p in policies]
        row += [f"{summary[f'be_share_of_leftover.{p}.{load}']:.2f}" for p in policies]
        rows.append(row)
    return _table(head, rows)


def _colocation_all(data: Json) -> str:
    head = [
        "LS load, BE mix, policy",
        "p50",
        "p95",
        "p99",
        "95 % interval",
        "BE items/s",
        "BE share",
    ]
    rows = []
    for row in data["rows"]:
        name = f"{row['load_percent']} % {row['mix'] or '-'} {row['policy']}"
        line = [name, *(f"{row[k]:.1f}" for k in ("p50_ms", "p95_ms", "p99_ms"))]
        line.append(f"{row['p99_low_ms']:.1f} - {row['p99_high_ms']:.1f}")
        both = ("be_items_per_s", "be_share_of_leftover")
        rows.append(line + [f"{row[k]:.2f}" if k in row else "-" for k in both])
    return _table(head, rows)


def _overhead(data: Json) -> str:
    s = data["summary"]
    rows = [
        ["a bare jitted call (MLP)", f"{s['bare_p50_us']:.0f} us"],
        ["`Runtime.infer` over it", f"+{s['runtime_p50_us']:.0f} us"],
        ["`Runtime.submit` and wait, over it", f"+{s['runtime_submit_p50_us']:.0f} us"],
        ["a bare starlette handler", f"{s['http_plain_p50_us']:.0f} us"],
        ["HTTP through the door", f"{s['http_vs_plain_p50']:.2f} x"],
    ]
    for key, ratio in s.items():
        if key.startswith("segmented_ratio."):
            name = key.partition(".")[2]
            rows.append(
                [
                    f"{name} in segments, against {s[f'whole_ms.{name}']:.0f} ms whole",
                    f"{ratio:.2f} x",
                ]
            )
    return _table(["median", ""], rows)


def _swap(data: Json) -> str:
    head = ["model, link", "MB", "resident", "swapped", "bound", "ratio to bound"]
    head += ["ratio to resident", "us a parameter, new", "used again"]
    rows = []
    for row in data["rows"]:
        line = [f"{row['model']}, {row['bus']}{' (heavy)' if row['heavy'] else ''}"]
        line.append(f"{row['parameter_mb']:.0f}")
        line += [f"{row[k]:.1f} ms" for k in ("resident_ms", "swapped_ms", "bound_ms")]
        line += [f"{row[k]:.2f}" for k in ("ratio_to_bound", "ratio_to_resident")]
        line += [f"{row[k]:.1f}" for k in ("us_per_new_leaf", "us_per_leaf")]
        rows.append(line)
    return _table(head, rows)


def _swap_short(data: Json) -> str:
    head = ["model", "parameters", "resident", "swapped in", "bound", "`device_put`, then run"]
    lines = [
        [
            row["model"],
            f"{row['parameter_mb']:.0f} MB",
            *(
                f"{row[k]:.0f} ms"
                for k in ("resident_ms", "swapped_ms", "bound_ms", "device_put_ms")
            ),
        ]
        for row in data["rows"]
        if row["bus"] == "bare"
    ]
    return _table(head, lines)


def _swap_breakdown(data: Json) -> str:
    rows = [row for row in data["rows"] if "device_put_ms" in row]
    ways = ("device_put", "copied", "each", "grouped", "prefetched", "resident")
    head = ["model, ms", "MB", *ways]
    lines = [
        [row["model"], f"{row['parameter_mb']:.0f}", *(f"{row[f'{way}_ms']:.1f}" for way in ways)]
        for row in rows
    ]
    return _table(head, lines)


def _density(data: Json) -> str:
    head = ["case, busy, system", "within SLO", "p50", "p98", "p98 / resident p50", "calls late"]
    head += ["calls that swap", "device busy"]
    lines = []
    for row in data["rows"]:
        line = [f"{row['case']}, {row['load_percent']} %, {row['system']}"]
        line.append(_percent(row["compliant"]))
        line += [f"{row[key]:.1f} ms" for key in ("p50_ms", "p98_ms")]
        line.append(f"{row['p98_ratio']:.1f}")
        line += [_percent(row.get(k)) for k in ("late_share", "swap_share", "device_busy")]
        lines.append(line)
    return _table(head, lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def _figures(data: Json) -> str:
    s = data["summary"]
    rows = [
        [key.replace("_", " "), value if isinstance(value, str) else f"{value:.4g}"]
        for key, value in s.items()
    ]
    return _table(["figure", ""], rows)


def _serving(data: Json) -> str:
    head = ["server, model", "p50, 1 client", "requests/s, 1", "requests/s, 8", "requests/s, 64"]
    at = {(r["what"], r["model"], r["connections"]): r for r in data["rows"] if "model" in r}
    rows = []
    for what, model in dict.fromkeys((what, model) for what, model, _ in at):
        row = [f"{what}, {model}", f"{at[what, model, 1]['p50_ms']:.2f} ms"]
        rows.append(row + [f"{at[what, model, n]['rps']:.0f}" for n in (1, 8, 64)])
    missing = [row["what"] for row in data["rows"] if "missing" in row]
    return _table(head, rows + [[f"{what} (missing)", *["-"] * 4] for what in missing])


def _serving_ls(data: Json) -> str:
    rows = []
    for row in (row for row in data["rows"] if " beside " in row["what"]):
        line = [row["what"], *(f"{row[k]:.2f} ms" for k in ("p50_ms", "p99_ms"))]
        known = "p99_low_ms" in row
        line.append(f"{row['p99_low_ms']:.2f} - {row['p99_high_ms']:.2f}" if known else "-")
        rows.append([*line, str(row["n"])])
    return _table(["LS requests", "p50", "p99", "95 % interval", "requests"], rows)


def _recover(data: Json) -> str:
    summary = data["summary"]
    head = ["channels (simulated)", "maps", "least accuracy", "probes, median", "probes, most"]
    rows = []
    for family in ("xor", "6", "12", "36", "80"):
        maps = [r for r in data["rows"] if r["family"] == family and "sweep" not in r]
        least = summary["xor_accuracy_min" if family == "xor" else f"other_accuracy_min.{family}"]
        figures = [f"{summary[f'probes_{which}.{family}']:.0f}" for which in ("median", "max")]
        rows.append(
            [family.replace("xor", "XOR"), str(len(maps)), f"{100 * least:.2f} %", *figures]
        )
    refused = f"{summary['refused_structureless']} of {summary['structureless']} refused"
    rows.append(["no structure", str(summary["structureless"]), refused, "-", "-"])
    rates = [f"{summary[f'simulator_accesses_per_s.{at}'] / 1e6:.0f}" for at in ("l2", "dram")]
    most = (
        f"\nA further page takes at most {summary['probes_per_page_max']} probes, a recovery at "
        f"most {summary['seconds_max']:.1f} s. In a second of CPU time the simulator serves "
        f"{rates[0]} million accesses from the L2, or {rates[1]} million from DRAM."
    )
    return _table(head, rows) + "\n" + most


def _processes(data: Json) -> str:
    rows = []
    for row in data["rows"]:
        line = [f"{row['launches']}, {row['processes']} {row['system']}"]
        line += [f"{row[k]:.1f}" for k in ("p50_ms", "p99_ms")]
        line.append(f"{row['p99_low_ms']:.1f} - {row['p99_high_ms']:.1f}")
        line.append(f"{row['longest_step_ms']:.0f}" if "longest_step_ms" in row else "-")
        line.append(f"{row['be_share_of_leftover']:.2f}" if "longest_step_ms" in row else "-")
        rows.append(line)
    head = ["launches, processes, system", "LS p50 ms", "p99 ms", "95 % interval"]
    return _table([*head, "longest BE step ms", "BE share"], rows)


def _processes_worst(data: Json) -> str:
    summary = data["summary"]
    rows = [
        [system, *(f"{summary[f'{figure}.{system}']:.2f}" for figure in _WORST)]
        for system in dict.fromkeys(r["system"] for r in data["rows"] if r["system"] != "alone")
    ]
    return _table(["system", "LS p99 against alone, worst", "BE share, worst"], rows)


_WORST = ("ls_p99_vs_alone", "be_share_of_leftover")


def _wrapper(data: Json) -> str:
    rows = []
    for row in data["rows"]:
        # A step takes milliseconds, of which nanoseconds say nothing.
        short = row["bare_us"] < 1000
        bare = f"{row['bare_us']:.3g} us" if short else f"{row['bare_us'] / 1e3:.0f} ms"
        extra = f"{row['extra_ns']:+.0f} ns" if short else f"{row['extra_ns'] / 1e6:+.1f} ms"
        rows.append([row["what"], bare, extra, f"{row['ratio']:.3f}"])
    return _table(["", "bare", "median difference", "median ratio"], rows)


def _channels(data: Json) -> str:
    s = data["summary"]
    head = ["GPU (simulated)", "LS p99, static", "BE rate", "LS p99, bimodal", "BE rate"]
    head += ["LS p99, all coloured", "BE rate", "paper's LS p99"]
    keys = ("ls_p99_change", "be_rate_change", "ls_p99_change_bimodal", "be_rate_change_bimodal")
    keys += ("ls_p99_change_all_coloured", "be_rate_change_all_coloured", "paper_ls_p99_change")
    gpus = [key.partition(".")[2] for key in s if key.startswith("ls_p99_change.")]
    rows = [[gpu, *(_change(s.get(f"{key}.{gpu}")) for key in keys)] for gpu in gpus]
    return _table(head, rows)


def _channels_shares(data: Json) -> str:
    rows = [row for row in data["rows"] if "coloured_byte_share" in row]
    gpus = list(dict.fromkeys(row["gpu"] for row in rows))
    at = {(row["model"], row["gpu"]): row for row in rows}
    lines = [
        [model, f"{at[model, gpus[0]]['mb']:.0f}", f"{at[model, gpus[0]]['gflop']:.1f}"]
        + [f"{100 * at[model, gpu]['coloured_byte_share']:.1f} %" for gpu in gpus]
        for model in dict.fromkeys(row["model"] for row in rows)
    ]
    return _table(["model (simulated)", "MB moved", "GFLOP", *gpus], lines)


def _channels_sensitivity(data: Json) -> str:
    rows = [row for row in data["rows"] if "what" in row]
    gpus = list(dict.fromkeys(row["gpu"] for row in rows))
    at = {(row["what"], row["gpu"]): row for row in rows}
    head = ["changed (simulated)"]
    for gpu in gpus:
        head += [f"{gpu}: LS p99, static", "BE rate", "LS p99, bimodal", "BE rate"]
    figures = [f"{f}.{layout}" for layout in ("static", "bimodal") for f in _CHANGES]
    lines = [
        [what, *(_change(at[what, gpu][figure]) for gpu in gpus for figure in figures)]
        for what in dict.fromkeys(row["what"] for row in rows)
    ]
    return _table(head, lines)


_CHANGES = ("p99_change", "be_rate_change")


def _change(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:+.1f} %"


def _granules(data: Json) -> str:
    rows = [row for row in data["rows"] if "waste" in row]
    lines = [
        [row["case"], str(row["tensors"])]
        + [f"{100 * row[key]:.1f} %" for key in ("utilisation", "waste", "waste_p99", "padding")]
        for row in rows
    ]
    head = ["plan", "tensors", "utilisation", "waste, median", "p99", "padding"]
    return _table(head, lines)


_TABLES: dict[str, Callable[[Json], str]] = {
    "colocation": _colocation,
    "colocation-all": _colocation_all,
    "beside": _colocation,
    "overhead": _overhead,
    "processes": _processes,
    "processes-worst": _processes_worst,
    "wrapper": _wrapper,
    "swap": _swap,
    "swap-short": _swap_short,
    "swap-breakdown": _swap_breakdown,
    "density": _density,
    "channels": _channels,
    "channels-shares": _channels_shares,
    "channels-sensitivity": _channels_sensitivity,
    "granules": _granules,
    "granules-figures": _figures,
    "link": _figures,
    "alloc": _figures,
    "recover": _recover,
    "soak": _figures,
    "swap_soak": _figures,
    "store_soak": _figures,
    "reload_soak": _figures,
    "door_soak": _figures,
    "arbiter_soak": _figures,
    "fuzz": _figures,
    "serving": _serving,
    "serving-ls": _serving_ls,
}
