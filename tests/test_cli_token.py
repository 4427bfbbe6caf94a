"""`missile token new`: what it prints is a token, and the line that lets it in."""

import re

import pytest
import yaml
from typer.testing import CliRunner

from missile_jax.cli import app
from missile_jax.errors import ConfigError, UnauthenticatedError
from missile_jax.options import TokenOptions
from missile_jax.server.auth import Call, Tokens


def new(*arguments: str) -> tuple[str, TokenOptions]:
    ended = CliRunner().invoke(app, ["token", "new", *arguments])
    assert ended.exit_code == 0, ended.output
    token, line = re.fullmatch(r"token: (\S+)\nfor auth.tokens: (- .*)\n", ended.stdout).groups()
    assert token not in line
    (entry,) = yaml.safe_load(line)
    return token, TokenOptions.model_validate(entry)


@pytest.mark.parametrize(
    ("arguments", "calls", "models"),
    [
        ([], {Call.INFER, Call.METADATA}, None),
        (["--model", "a", "--model", "b"], {Call.INFER, Call.METADATA}, {"a", "b"}),
        (["--admin"], set(Call), {"*"}),
    ],
)
def test_the_token_gets_in_by_the_line(arguments, calls, models):
    token, entry = new("--tenant", "a tenant", *arguments)
    caller = Tokens([entry]).caller([f"Bearer {token}"])
    assert (caller.tenant, caller.calls, caller.models) == ("a tenant", calls, models)
    other, _ = new("--tenant", "a tenant")
    with pytest.raises(UnauthenticatedError):
        Tokens([entry]).caller([f"Bearer {other}"])


def test_a_tenant_must_be_named():
    assert CliRunner().invoke(app, ["token", "new"]).exit_code == 2
    ended = CliRunner().invoke(app, ["token", "new", "--tenant", ""])
    assert isinstance(ended.exception, ConfigError)
    assert ended.stdout == ""
