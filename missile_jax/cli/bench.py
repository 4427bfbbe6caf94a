"""``missile bench``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import numpy as np
import orjson
import typer

from missile_jax.cli.access import Ca, Cert, Key, Token, connect, context, token_in
from missile_jax.cli.items import tensors
from missile_jax.client import LENGTH_HEADER, address, authorization
from missile_jax.errors import ServerError
from missile_jax.server.codec import InferRequest, encode_request
from missile_jax.server.tensors import DTYPES
from missile_jax.traffic import Connection, Outcome, open_loop, precise_loop

app = typer.Typer()
_BINS = 16
_BAR = 40


@app.command(
    epilog="""\b
Examples:
  missile bench http://127.0.0.1:8000 squeezenet
  missile bench http://127.0.0.1:8000 mlp --rate 500 --seconds 30 --json mlp.json
  missile bench http://127.0.0.1:8000 minilm --input "A cat sleeps." --concurrency 8
  missile bench https://gpu-1:8000 mlp --ca ca.pem --token @token"""
)
def bench(
    url: Annotated[str, typer.Argument(help="URL of the server.", metavar="URL")],
    model: Annotated[
        str, typer.Argument(help="Model, by its name on the server.", metavar="MODEL")
    ],
    rate: Annotated[float, typer.Option(min=0.01, help="Requests a second, on average.")] = 50.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Length of the load.")] = 10.0,
    concurrency: Annotated[
        int, typer.Option(min=1, max=512, help="Connections, each with one request in flight.")
    ] = 32,
    item: Annotated[
        str | None,
        typer.Option(
            "--input", help="What to send, as INPUT of missile client; else random numbers."
        ),
    ] = None,
    zoo_model: Annotated[
        str | None, typer.Option("--zoo", help="As of missile client, for --input.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of arrivals and numbers.")] = 0,
    json: Annotated[Path | None, typer.Option("--json", help="Write the figures here.")] = None,
    token: Token = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
) -> None:
    """Send requests at random times, and show the latencies.

    Arrivals are a Poisson process, as those of independent clients. A latency counts from the time
    its request was due, so a server that falls behind, or too few connections, show in it. Exits
    with 1 if no request succeeds.
    """
    rng = np.random.default_rng(seed)
    with connect(url, token, ca, cert, key) as client:
        metadata = client.metadata(model)
        inputs = (
            _random(metadata, rng) if item is None else tensors(item, zoo_model or model, metadata)
        )
        client.infer(model, inputs)
    due = np.cumsum(rng.exponential(1 / rate, max(1, round(rate * seconds))))
    host, port, _ = address(url)
    tls = context(url, ca, cert, key)
    connections = [Connection(host, port, tls=tls) for _ in range(concurrency)]
    load = open_loop(connections, [_request(url, model, inputs, token_in(token))], due)
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        outcome = runner.run(load)
    figures = {"url": url, "model": model, "seed": seed, "connections": concurrency}
    figures |= {"asked_per_s": rate, **_figures(outcome)}
    _show(outcome, figures)
    if json is not None:
        json.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))
    if not len(outcome.latencies_s):
        raise ServerError(f"no request succeeded: {outcome.errors}")


def _random(metadata: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """An input for each tensor, its open axes 1: normal numbers, or ones where they are whole."""
    inputs = {}
    for tensor in metadata["inputs"]:
        shape, dtype = [abs(size) for size in tensor["shape"]], DTYPES[tensor["datatype"]]
        values = rng.normal(size=shape) if dtype.kind not in "biu" else np.ones(shape)
        inputs[tensor["name"]] = values.astype(dtype)
    return inputs


def _request(url: str, model: str, inputs: dict[str, np.ndarray], token: str | None) -> bytes:
    host, port, _ = address(url)
    body, length = encode_request(InferRequest(inputs, binary=True))
    headers = {
        "Host": f"{host}:{port}",
        LENGTH_HEADER: length,
        "Content-Length": len(body),
        **authorization(token),
    }
    lines = [f"POST /v2/models/{quote(model, '')}/infer HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _figures(outcome: Outcome) -> dict[str, Any]:
    ms = outcome.latencies_s * 1e3
    figures: dict[str, Any] = {
        "answered": len(ms),
        "answered_per_s": outcome.rate_per_s,
        "errors": outcome.errors,
    }
    if len(ms):
        figures |= {f"p{q}_ms": float(np.percentile(ms, q)) for q in (50, 95, 99)}
        figures["max_ms"] = float(ms.max())
    return figures


def _show(outcome: Outcome, figures: dict[str, Any]) -> None:
    ms = outcome.latencies_s * 1e3
    if len(ms):
        edges = np.geomspace(ms.min(), ms.max() * (1 + 1e-9), _BINS + 1)
        counts, _ = np.histogram(ms, edges)
        for low, high, count in zip(edges, edges[1:], counts, strict=False):
            bar = "#" * int(np.ceil(_BAR * count / counts.max()))
            typer.echo(f"{low:9.3g} - {high:9.3g} ms {count:8d} {bar}".rstrip())
        names = ("p50", "p95", "p99", "max")
        typer.echo("  ".join(f"{name} {figures[f'{name}_ms']:.3g} ms" for name in names))
    typer.echo(
        f"{figures['answered']} answered, {figures['answered_per_s']:.4g} a second "
        f"of {figures['asked_per_s']:.4g} asked for"
    )
    for kind, count in sorted(outcome.errors.items()):
        typer.echo(f"{count} failed: {kind}")
