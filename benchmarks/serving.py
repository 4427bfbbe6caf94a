"""What does the door cost, and how do other servers compare?

Every server has the same two models and serves each request by itself. The load generator is one
process, and its own floor is in the report. In each round every contender has its turn at every
concurrency; figures are medians over the rounds. Then, in rounds again, latency-sensitive requests
go at random times through the door, beside clients that behave badly, and straight to `Runtime`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from rich.console import Console

from benchmarks.abuser import BULK_SHAPE, KINDS
from benchmarks.contenders import GRPC_FLOORS, Contender, contenders, infer_request, install
from benchmarks.generator import Generator, Job, arrivals_s, sender
from benchmarks.load import latency_stream
from benchmarks.report import Report, p99_interval_ms, p99_samples_ms, percentiles
from benchmarks.served import MODELS, served
from benchmarks.servers import PATIENCE_S, Server, free_port, running
from missile_jax import Model, Runtime, serve

CONCURRENCY = (1, 8, 64)
LS_RATE_PER_S = 100.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How long what lasts.

    seconds: of each turn of a contender, of which each has one in each of `rounds`.
    ls_seconds: of each turn of LS requests, of which each figure has `ls_rounds`.
    """

    seed: int
    rounds: int
    seconds: float
    ls_rounds: int
    ls_seconds: float
    peers: Sequence[str]
    protocols: Sequence[str]


def settings(quick: bool, seed: int, peers: Sequence[str], protocols: Sequence[str]) -> Settings:
    if quick:
        return Settings(seed, 2, 0.5, 4, 3.0, peers, protocols)
    return Settings(seed, 5, 4.0, 6, 10.0, peers, protocols)


def run(chosen: Settings, console: Console) -> Report:
    """The whole report; a peer that does not install or start is in it as missing, with why."""
    report = Report("serving", chosen.seed)
    missing = {}
    for peer in chosen.peers:
        console.print(f"[dim]environment of {peer}[/]")
        if reason := install(peer):
            missing[peer] = reason
    with Generator() as generator:
        for model in MODELS:
            _compare(report, model, chosen, generator, missing, console)
        _latencies(report, chosen, generator, console)
    report.rows += [{"what": peer, "missing": why} for peer, why in sorted(missing.items())]
    report.summary |= _ratios(report.rows)
    return report


def _compare(
    report: Report,
    model: str,
    chosen: Settings,
    generator: Generator,
    missing: dict[str, str],
    console: Console,
) -> None:
    """A row for each contender and concurrency. All servers run all the time; one is asked."""
    x, turns = served(model).example(chosen.seed), {}
    with ExitStack() as servers:
        floor = free_port()
        command = [sys.executable, "-m", "benchmarks.floor_server", str(floor)]
        servers.enter_context(running(command, floor))
        floor_job = Job(floor, infer_request(model, x), chosen.seconds, 1)
        turns["generator's floor"] = floor_job
        for contender in contenders(chosen.peers, chosen.protocols):
            if contender.name in missing:
                continue
            console.print(f"[dim]{model}: {contender.label} starts[/]")
            try:
                port = servers.enter_context(_serving(contender, model))
            except RuntimeError as error:
                if contender.name not in chosen.peers:
                    raise
                missing[contender.name] = f"{contender.label}: {error}"
                continue
            request = contender.request(model, x)
            turns[contender.label] = Job(port, request, chosen.seconds, 1, contender.protocol)
        measured = _rounds(turns, chosen, generator, missing, f"{model}: ", console)
    for (label, connections), answers in measured.items():
        row: dict[str, Any] = {"what": label, "model": model, "connections": connections}
        for key in ("p50_ms", "p99_ms", "rps"):
            row[key] = float(np.median([answer[key] for answer in answers]))
        row["errors"] = sum(sum(answer["errors"].values()) for answer in answers)
        report.rows.append(row)


def _rounds(
    turns: dict[str, Job],
    chosen: Settings,
    generator: Generator,
    missing: dict[str, str],
    title: str,
    console: Console,
) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Answers of the generator for each contender and concurrency, one for each round.

    A peer that answers nothing any more is left out and `missing`.
    """
    measured: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for round_ in range(chosen.rounds + 1):
        console.print(f"[dim]{title}{f'round {round_}' if round_ else 'warm-up'}[/]")
        for connections in CONCURRENCY:
            for label, job in list(turns.items()):
                try:
                    answer = generator.run(replace(job, connections=connections))
                except RuntimeError as error:
                    name = label.partition(" ")[0]
                    if name not in chosen.peers:
                        raise
                    missing[name] = f"{label}, {connections} connections: {error}"
                    del turns[label]
                    continue
                if round_:
                    measured.setdefault((label, connections), []).append(answer)
    return {key: answers for key, answers in measured.items() if key[0] in turns}


@contextmanager
def _serving(contender: Contender, model: str) -> Iterator[int]:
    """The port at which a contender is to be asked, once it answers, and rightly.

    Raises RuntimeError with the end of what the server wrote, if it does not.
    """
    first = free_port(3)
    port = first + (contender.form == "grpc")
    with running(contender.command(first, model), port) as server:
        _await_answer(server, port, contender, model)
        yield port


def _await_answer(server: Server, port: int, contender: Contender, model: str) -> None:
    # A port may listen before the model behind it is loaded.
    net = served(model)
    x = net.example()
    request = contender.request(model, x)
    until = time.monotonic() + PATIENCE_S
    while True:
        server.check()
        try:
            status, body = _ask(port, contender.protocol, request)
        except OSError as error:
            answer = repr(error)
        else:
            if status == 200:
                break
            answer = f"{status} {body[:200]!r}"
        if time.monotonic() > until:
            raise RuntimeError(f"no answer but {answer}; the server wrote:\n{server.said()}")
        time.sleep(0.5)
    expected = net.compiled()(x)
    if not np.allclose(contender.logits(body), expected, rtol=1e-3, atol=1e-3):
        raise RuntimeError(f"it answered {body[:200]!r}, not {expected}")


def _ask(port: int, protocol: str, request: bytes) -> tuple[int, bytes]:
    async def ask() -> tuple[int, bytes]:
        connection = sender(port, protocol)
        try:
            return await connection.send(request), connection.body
        finally:
            connection.close()

    return asyncio.run(ask())


def _latencies(report: Report, chosen: Settings, generator: Generator, console: Console) -> None:
    """A row for LS requests through the door beside nobody and each kind of abuser, and straight.

    Straight to the runtime they go beside bulk, in turns with those through the door.
    """
    net = served("mlp")
    ls = Model("mlp", net.function, net.parameters, example=net.example(), priority="latency")
    bulk = Model("sum", _sum, (), example=np.zeros(BULK_SHAPE, np.float32))
    seen: dict[str, list[np.ndarray]] = {}
    errors: Counter[str] = Counter()
    with serve([ls, bulk], http_port=0, block=False) as serving:
        port = int(serving.url.rpartition(":")[2])
        job = Job(
            port, infer_request("mlp", net.example(chosen.seed)), chosen.ls_seconds, 16,
            rate=LS_RATE_PER_S,
        )  # fmt: skip
        for round_ in range(chosen.ls_rounds):
            turn = replace(job, seed=chosen.seed + round_)
            for kind in ("nobody", *KINDS):
                console.print(f"[dim]LS beside {kind}: round {round_ + 1}[/]")
                ways = ("door", "runtime") if kind == "bulk" else ("door",)
                with beside(kind, port):
                    for way in ways[:: -1 if round_ % 2 else 1]:
                        what = f"{way} beside {kind}"
                        if way == "door":
                            latencies_s, failed = _through_door(generator, turn)
                        else:
                            latencies_s, failed = _straight(serving.runtime, turn)
                        seen.setdefault(what, []).append(latencies_s)
                        errors[what] += failed
    pooled = {what: np.concatenate(turns) for what, turns in seen.items()}
    for what, latencies_s in pooled.items():
        low, high = p99_interval_ms(latencies_s, chosen.seed)
        row = {"what": what, "n": len(latencies_s), "errors": errors[what]}
        report.rows.append(
            row | percentiles(latencies_s) | {"p99_low_ms": low, "p99_high_ms": high}
        )
    door, runtime = (
        p99_samples_ms(pooled[f"{way} beside bulk"], chosen.seed + k)
        for k, way in enumerate(("door", "runtime"))
    )
    low, high = (float(x) for x in np.percentile(door / runtime, (2.5, 97.5)))
    report.summary |= {"ls_p99_door_vs_runtime_low": low, "ls_p99_door_vs_runtime_high": high}


def _sum(_: Any, x: jax.Array) -> jax.Array:
    return x.sum(1, keepdims=True)


@contextmanager
def beside(kind: str, port: int) -> Iterator[None]:
    """While an abuser of a kind, or "nobody", is at the server on `port`."""
    if kind == "nobody":
        yield
        return
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.abuser", kind, str(port)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "on\n":
            raise RuntimeError(f"the abuser {kind!r} ended before it was at it")
        yield
        if process.poll() is not None:
            raise RuntimeError(f"the abuser {kind!r} ended before the others were done")
    finally:
        process.kill()
        process.communicate()


def _through_door(generator: Generator, turn: Job) -> tuple[np.ndarray, int]:
    """Latencies in s, and how many requests failed."""
    answer = generator.run(turn)
    return np.array(answer["latencies_ms"]) / 1e3, sum(answer["errors"].values())


def _straight(runtime: Runtime, turn: Job) -> tuple[np.ndarray, int]:
    """As `_through_door`, of requests that this thread submits to the runtime."""
    seen, _, _ = latency_stream(runtime, "mlp", [served("mlp").example()], arrivals_s(turn))
    return seen.latencies_s, 0


def _ratios(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The figures that others quote; requests/s are those of the MLP at concurrency 8."""
    at = {(r["what"], r["connections"]): r for r in rows if r.get("model") == "mlp"}
    ls = {r["what"]: r["p99_ms"] for r in rows if " beside " in r["what"]}
    ratios = {
        "generator_max_rps": at["generator's floor", 8]["rps"],
        "ls_p99_door_vs_runtime": ls["door beside bulk"] / ls["runtime beside bulk"],
    }
    for kind in KINDS:
        ratios[f"ls_p99_vs_alone.{kind}"] = ls[f"door beside {kind}"] / ls["door beside nobody"]
    if ("ours binary", 1) in at:
        ours, plain = at["ours binary", 1], at["plain binary", 1]
        ratios["http_p50_vs_plain"] = ours["p50_ms"] / plain["p50_ms"]
        ratios["http_rps_vs_plain_c8"] = at["ours binary", 8]["rps"] / at["plain binary", 8]["rps"]
    for what, connections in at:
        name, _, form = what.partition(" ")
        if (
            connections == 8
            and form in ("binary", "json", "grpc")
            and name not in ("ours", "plain")
        ):
            key = f"grpc_rps_vs.{name}" if form == "grpc" else f"rps_vs.{name}"
            if name in GRPC_FLOORS:
                key = f"grpc_rps_vs_{name.replace('-', '_')}"
            ratios[key] = at[f"ours {form}", 8]["rps"] / at[what, 8]["rps"]
    return ratios
