"""``missile models``."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from missile_jax.cli.access import Ca, Cert, Key, Token, connect
from missile_jax.client import Client
from missile_jax.config import zoo

app = typer.Typer()


@app.command(
    epilog="""\b
Examples:
  missile models
  missile models --url http://127.0.0.1:8000
  MISSILE_TOKEN=@token missile models --url https://gpu-1:8000 --ca ca.pem"""
)
def models(
    url: Annotated[str | None, typer.Option(help="URL of a server: list its models.")] = None,
    token: Token = None,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
) -> None:
    """List the networks of the zoo, or the models of a server.

    Each network is a value for zoo: in a configuration.
    """
    if url is None:
        for name in zoo().names():
            typer.echo(name)
        return
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in ("name", "state", "priority", "inputs", "outputs"):
        table.add_column(column, overflow="fold")
    with connect(url, token, ca, cert, key) as client:
        for entry in client.models():
            table.add_row(entry["name"], entry["state"], *_details(client, entry))
    Console(highlight=False, markup=False).print(table)


def _details(client: Client, entry: dict[str, Any]) -> tuple[str, str, str]:
    """Priority, inputs and outputs; of a model that is not loaded, why it is not."""
    if entry["state"] != "READY":
        return "-", entry["reason"] or "-", "-"
    metadata = client.metadata(entry["name"])
    priority = client.config(entry["name"])["parameters"]["priority"]["string_value"]
    return priority, _tensors(metadata["inputs"]), _tensors(metadata["outputs"])


def _tensors(tensors: list[dict[str, Any]]) -> str:
    return "\n".join(
        f"{t['name']} {t['datatype']} [{','.join(map(str, t['shape']))}]" for t in tensors
    )
