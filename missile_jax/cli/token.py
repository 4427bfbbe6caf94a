"""``missile token``: what clients show to a server that asks for it."""

from __future__ import annotations

from typing import Annotated

import typer
import yaml
from pydantic import ValidationError

from missile_jax.errors import ConfigError
from missile_jax.options import TokenOptions
from missile_jax.server.auth import ALL_MODELS, new_token, sha256

app = typer.Typer(
    help="Tokens for a server's clients.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def _group() -> None:
    """Tokens for a server's clients."""


@app.command(
    epilog="""\b
Examples:
  missile token new --tenant search
  missile token new --tenant search --model ranker --model embedder
  missile token new --tenant operators --admin"""
)
def new(
    tenant: Annotated[str, typer.Option(help="Whose the token is.")],
    model: Annotated[
        list[str] | None,
        typer.Option(help="It may use this model; may be given again. The tenant's if left out."),
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="It may do everything.")] = False,
) -> None:
    """Make a token and print it, once, with the line for ``auth.tokens`` of a configuration."""
    token = new_token()
    given: dict[str, object] = {"tenant": tenant, "sha256": sha256(token)}
    if admin:
        given |= {"calls": ["infer", "metadata", "admin"], "models": [ALL_MODELS]}
    if model:
        given["models"] = model
    try:
        TokenOptions.model_validate(given)
    except ValidationError:
        raise ConfigError(f"tenant={tenant!r} and models={model!r} must not be empty") from None
    line = yaml.safe_dump(given, default_flow_style=True, sort_keys=False, width=1000).strip()
    typer.echo(f"token: {token}")
    typer.echo(f"for auth.tokens: - {line}")
