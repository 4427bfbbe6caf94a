"""Tokens and what they are good for."""

import pytest

from missile_jax.errors import ForbiddenError, UnauthenticatedError
from missile_jax.options import TokenOptions
from missile_jax.server.auth import (
    ANYONE,
    MIN_TOKEN_CHARS,
    Call,
    Caller,
    Tokens,
    new_token,
    sha256,
)
from missile_jax.spec import Priority


def options(token: str, tenant: str = "red", **given) -> TokenOptions:
    return TokenOptions(tenant=tenant, sha256=sha256(token), **given)


def test_tokens_are_long_and_never_the_same():
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(token) >= MIN_TOKEN_CHARS and token.startswith("missile_") for token in tokens)


def test_a_tenant_may_have_several_tokens_each_with_its_own_rights():
    first, second, other = new_token(), new_token(), new_token()
    tokens = Tokens(
        [options(first), options(second, calls=["admin"]), options(other, tenant="blue")]
    )
    assert tokens.caller([f"Bearer {first}"]).tenant == "red"
    assert tokens.caller([f"bearer  {second} "]).calls == {Call.ADMIN}
    assert tokens.caller([f"Bearer {other}"]).tenant == "blue"


@pytest.mark.parametrize(
    "sent",
    [
        [],
        [""],
        ["Bearer"],
        ["Bearer "],
        ["Basic {token}"],
        ["{token}"],
        ["Bearer {token}x"],
        ["Bearer \u00ff{token}"],
        ["Bearer {hash}"],
        ["Bearer {token}", "Bearer {token}"],
    ],
)
def test_anything_but_one_known_token_is_refused_and_not_repeated(sent):
    token = new_token()
    values = [value.format(token=token, hash=sha256(token)) for value in sent]
    with pytest.raises(UnauthenticatedError) as caught:
        Tokens([options(token)]).caller(values)
    assert token not in str(caught.value)


def test_a_short_token_is_good_for_nothing_even_where_its_hash_is_configured():
    short = "a" * (MIN_TOKEN_CHARS - 1)
    with pytest.raises(UnauthenticatedError):
        Tokens([options(short)]).caller([f"Bearer {short}"])
    assert Tokens([options(short + "a")]).caller([f"Bearer {short}a"]).tenant == "red"


def test_every_token_is_compared_wherever_the_right_one_stands(monkeypatch):
    tokens = [new_token() for _ in range(5)]
    compared = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(a)
        return a == b

    monkeypatch.setattr("missile_jax.server.auth.hmac.compare_digest", compare)
    known = Tokens([options(token) for token in tokens])
    for token in (tokens[0], tokens[-1]):
        compared.clear()
        known.caller([f"Bearer {token}"])
        assert len(compared) == 5


def test_no_tokens_ask_nobody():
    assert Tokens.of([]) is None
    for call in Call:
        ANYONE.check(call)
    assert ANYONE.sees("m", "red")
    ANYONE.check_priority(Priority.LATENCY, None)


def test_calls_that_are_not_allowed_are_refused():
    caller = Caller.of(options(new_token(), calls=["metadata"]))
    caller.check(Call.METADATA)
    with pytest.raises(ForbiddenError, match="does not allow infer calls; it allows metadata"):
        caller.check(Call.INFER)


@pytest.mark.parametrize(
    ("models", "model", "tenant", "seen"),
    [
        (None, "m", "red", True),
        (None, "m", "blue", False),
        (None, "m", None, False),
        (["m"], "m", "blue", True),
        (["m"], "m", None, True),
        (["m"], "n", "red", False),
        (["*"], "n", "blue", True),
        ([], "m", "red", False),
    ],
)
def test_which_models_are_seen(models, model, tenant, seen):
    assert Caller.of(options(new_token(), models=models)).sees(model, tenant) is seen


@pytest.mark.parametrize(
    ("own", "asked", "allowed"),
    [
        (Priority.BEST_EFFORT, None, True),
        (Priority.LATENCY, "best_effort", True),
        (Priority.LATENCY, None, False),
        (Priority.LATENCY, 65535, False),
        (Priority.LATENCY, "latency", False),
    ],
)
def test_a_token_for_best_effort_sends_nothing_else(own, asked, allowed):
    caller = Caller.of(options(new_token(), priorities=["best_effort"]))
    if allowed:
        caller.check_priority(own, asked)
    else:
        with pytest.raises(ForbiddenError, match="latency"):
            caller.check_priority(own, asked)
