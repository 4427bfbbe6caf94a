"""``missile client``."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
import typer

from missile_jax.cli.access import Ca, Cert, Key, Token, connect
from missile_jax.cli.items import PHOTOS, is_text, tensors
from missile_jax.client import URL
from missile_jax.config import zoo

app = typer.Typer()
_LIKELIEST = 5


@app.command(
    epilog="""\b
Examples:
  missile client squeezenet coffee.jpg
  missile client minilm "A cat sleeps." "A kitten naps." --url http://gpu-1:8000
  missile client photos cat.png --zoo mobilenet --json
  missile client photos cat.png --url https://gpu-1:8000 --ca ca.pem --token @token
  missile client rank features.npz"""
)
def client(
    model: Annotated[
        str, typer.Argument(help="Model, by its name on the server.", metavar="MODEL")
    ],
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="A photo (.jpg, .png), an array (.npy; .npz by tensor name), a text, or @FILE "
            "with one.",
            metavar="INPUT",
        ),
    ],
    url: Annotated[str, typer.Option(help="URL of the server.")] = URL,
    zoo_model: Annotated[
        str | None,
        typer.Option("--zoo", help="Network of the zoo that MODEL is; its own name by default."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="A JSON object for each input.")] = False,
    token: Token = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
) -> None:
    """Send each INPUT to a running server, say in words what it answers.

    A photo is prepared as its network wants it, and answered with the likeliest labels; a text
    likewise, with its similarity to the others.
    """
    network = zoo_model or model
    with connect(url, token, ca, cert, key) as connection:
        metadata = connection.metadata(model)
        sent = [tensors(item, network, metadata) for item in inputs]
        outputs = [connection.infer(model, tensor) for tensor in sent]
    answers = [
        {"input": item, **_words(item, arrays)}
        for item, arrays in zip(inputs, outputs, strict=True)
    ]
    _compare([(a, o) for a, o in zip(answers, outputs, strict=True) if is_text(a["input"])])
    for answer in answers:
        typer.echo(orjson.dumps(answer).decode() if json else _lines(answer))


def _words(item: str, outputs: dict[str, np.ndarray]) -> dict[str, Any]:
    logits = next(iter(outputs.values()))
    if Path(item).suffix.lower() in PHOTOS and logits.shape == (1, len(zoo().imagenet_labels())):
        (row,) = zoo().probabilities(logits)
        likeliest = row.argsort()[::-1][:_LIKELIEST]
        names = zoo().imagenet_labels()
        return {"labels": [{"label": names[k], "probability": float(row[k])} for k in likeliest]}
    return {"outputs": {name: _summary(array) for name, array in outputs.items()}}


def _summary(array: np.ndarray) -> dict[str, Any]:
    """Shape, dtype and, of numbers, the least, the mean and the largest."""
    shown: dict[str, Any] = {"shape": list(array.shape), "dtype": array.dtype.name}
    if array.size and not array.dtype.hasobject:
        values = array.astype(np.float64)
        shown |= {name: float(getattr(values, name)()) for name in ("min", "mean", "max")}
    return shown


def _compare(texts: Sequence[tuple[dict[str, Any], dict[str, np.ndarray]]]) -> None:
    """Add to each text's answer its cosine with the texts before it."""
    for (_, first), (answer, second) in itertools.combinations(texts, 2):
        a, b = (next(iter(x.values())).ravel().astype(np.float64) for x in (first, second))
        cosine = a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12)
        answer.setdefault("similarity", []).append(float(cosine))


def _lines(answer: dict[str, Any]) -> str:
    lines = [answer["input"]]
    lines += [f"  {x['probability']:.3f}  {x['label']}" for x in answer.get("labels", ())]
    for name, shown in answer.get("outputs", {}).items():
        numbers = [f"{k} {shown[k]:.4g}" for k in ("min", "mean", "max") if k in shown]
        lines.append("  ".join([f"  {name}", shown["dtype"], str(shown["shape"]), *numbers]))
    lines += [
        f"  similarity to text {k + 1}: {cosine:.2f}"
        for k, cosine in enumerate(answer.get("similarity", ()))
    ]
    return "\n".join(lines)
