"""What does the door cost, and how do other servers compare?

Every server has the same two models and serves each request by itself. The load generator is one
process, and its own floor is in the report. In each round every contender has its turn at every
concurrency; figures are medians over the rounds. Then latency-sensitive requests go through the
door, at random times, beside clients that behave badly, and at last straight to `Runtime`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from rich.console import Console

from benchmarks.abuser import BULK_SHAPE, KINDS
from benchmarks.contenders import Contender, contenders, infer_request, install
from benchmarks.generator import Generator, Job, sender
from benchmarks.report import Report
from benchmarks.served import MODELS, served
from benchmarks.servers import PATIENCE_S, Server, free_port, running
from missile_jax import Model, Runtime, serve

CONCURRENCY = (1, 8, 64)
LS_RATE_PER_S = 100.0


@dataclass(frozen=True, slots=True)
class Settings:
    """seconds: of each turn. ls_seconds: of each load of LS requests beside other clients."""

    seed: int
    rounds: int
    seconds: float
    ls_seconds: float
    peers: Sequence[str]
    protocols: Sequence[str]


def settings(quick: bool, seed: int, peers: Sequence[str], protocols: Sequence[str]) -> Settings:
    if quick:
        return Settings(seed, 2, 0.5, 3.0, peers, protocols)
    return Settings(seed, 5, 4.0, 30.0, peers, protocols)


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
        _door_under_abuse(report, chosen, generator, console)
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
        measured = _rounds(turns, chosen, generator, f"{model}: ", console)
    for (label, connections), answers in measured.items():
        row: dict[str, Any] = {"what": label, "model": model, "connections": connections}
        for key in ("p50_ms", "p99_ms", "rps"):
            row[key] = float(np.median([answer[key] for answer in answers]))
        row["errors"] = sum(sum(answer["errors"].values()) for answer in answers)
        report.rows.append(row)


def _rounds(
    turns: dict[str, Job], chosen: Settings, generator: Generator, title: str, console: Console
) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Answers of the generator for each contender and concurrency, one for each round."""
    measured: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for round_ in range(chosen.rounds + 1):
        console.print(f"[dim]{title}{f'round {round_}' if round_ else 'warm-up'}[/]")
        for connections in CONCURRENCY:
            for label, job in turns.items():
                answer = generator.run(
                    Job(job.port, job.request, job.seconds, connections, job.protocol)
                )
                if round_:
                    measured.setdefault((label, connections), []).append(answer)
    return measured


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


def _door_under_abuse(
    report: Report, chosen: Settings, generator: Generator, console: Console
) -> None:
    """A row for the LS latencies through the door beside nobody and each kind of abuser."""
    net = served("mlp")
    ls = Model("mlp", net.function, net.parameters, example=net.example(), priority="latency")
    bulk = Model("sum", _sum, (), example=np.zeros(BULK_SHAPE, np.float32))
    with serve([ls, bulk], http_port=0, block=False) as serving:
        port = int(serving.url.rpartition(":")[2])
        job = Job(
            port, infer_request("mlp", net.example(chosen.seed)), chosen.ls_seconds, 16,
            rate=LS_RATE_PER_S, seed=chosen.seed,
        )  # fmt: skip
        for kind in ("nobody", *KINDS):
            console.print(f"[dim]LS through the door beside {kind}[/]")
            with beside(kind, port):
                _ls_row(report, f"door beside {kind}", generator.run(job))
        console.print("[dim]LS straight to the runtime beside bulk[/]")
        with beside("bulk", port):
            _ls_row(report, "runtime beside bulk", _straight(serving.runtime, chosen))


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


def _straight(runtime: Runtime, chosen: Settings) -> dict[str, Any]:
    """The same arrivals as through the door, submitted to the runtime by this thread."""
    x, latencies_s = served("mlp").example(chosen.seed), []
    count = round(LS_RATE_PER_S * chosen.ls_seconds)
    gaps = np.random.default_rng(chosen.seed).exponential(1 / LS_RATE_PER_S, count)
    start, futures = time.perf_counter(), []
    for due in start + np.cumsum(gaps):
        time.sleep(max(0.0, due - time.perf_counter()))
        future = runtime.submit("mlp", x)
        future.add_done_callback(lambda _, due=due: latencies_s.append(time.perf_counter() - due))
        futures.append(future)
    for future in futures:
        future.result()
    ms = np.array(latencies_s) * 1e3
    p50, p99 = (float(np.percentile(ms, q)) for q in (50, 99))
    return {"p50_ms": p50, "p99_ms": p99, "n": len(ms), "errors": {}}


def _ls_row(report: Report, what: str, answer: dict[str, Any]) -> None:
    row = {key: answer[key] for key in ("p50_ms", "p99_ms", "n")}
    report.rows.append({"what": what, **row, "errors": sum(answer["errors"].values())})


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
            ratios[key] = at[f"ours {form}", 8]["rps"] / at[what, 8]["rps"]
    return ratios
