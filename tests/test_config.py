"""Configuration: what wins, what is refused, and how well it is said."""

import sys
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from missile_jax import SLO, ConfigError, Fifo, Missile, Model, Priority, Tenant
from missile_jax.config import Config
from missile_jax.options import HttpOptions, ServerOptions
from missile_jax.sources import load_config

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def factories(monkeypatch) -> types.ModuleType:
    """An importable module `my_models`."""
    module = types.ModuleType("my_models")

    def make() -> Model:
        return Model(
            "inner", lambda p, x: p * x, np.float32(2), np.zeros((1, 2)), priority="latency"
        )

    def like_the_zoo():
        return SimpleNamespace(module=lambda p, x: x, variables={}, example=np.zeros((1, 2)))

    module.__dict__.update(make=make, like_the_zoo=like_the_zoo, wrong=lambda: 7, number=7)
    monkeypatch.setitem(sys.modules, "my_models", module)
    return module


MINE = {"factory": "my_models:make"}


@pytest.fixture
def load(tmp_path):
    def load(document, environment=None, **flags) -> Config:
        file = tmp_path / "serve.yaml"
        file.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
        flags = {"--" + name.replace("_", "-"): value for name, value in flags.items()}
        return load_config(file, environment=environment or {}, flags=flags)

    return load


@pytest.fixture
def problems(load):
    def problems(document, environment=None, **flags) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(document, environment, **flags)
        title, *lines = str(caught.value).splitlines()
        assert title.endswith("serve.yaml is wrong:")
        return [line.strip() for line in lines]

    return problems


def test_defaults(load):
    config = load({"models": {"m": MINE}})
    assert (config.policy, config.be_floor) == ("missile", 0.0)
    assert config.http == HttpOptions()


def test_the_file_yields_to_the_environment_and_that_to_flags(load):
    document = {
        "policy": "fifo",
        "http": {"port": 1, "host": "a", "drain_s": 1},
        "models": {"m": MINE},
    }
    environment = {"MISSILE_HTTP_PORT": "2", "MISSILE_HTTP_HOST": "b", "MISSILE_SERVICE_HOST": "-"}
    config = load(document, environment, http_port=3, host=None, policy=None)
    assert (config.http.port, config.http.host, config.http.drain_s) == (3, "b", 1.0)
    assert config.policy == "fifo"


def test_the_environment_can_say_yes_and_no(load):
    environment = {"MISSILE_OBSERVE_PAGE": "true", "MISSILE_OBSERVE_METRICS": "false"}
    config = load({"models": {"m": MINE}}, environment | {"MISSILE_LOG_FORMAT": "json"})
    assert (config.observe.page, config.observe.metrics) == (True, False)
    assert (config.log.format, config.log.access) == ("json", False)


def test_the_environment_needs_no_section_in_the_file(load):
    environment = {"MISSILE_HTTP_MAX_BODY_BYTES": "7", "MISSILE_BE_FLOOR": "0.5"}
    config = load({"models": {"m": MINE}}, environment)
    assert (config.http.max_body_bytes, config.be_floor) == (7, 0.5)


def test_grpc_and_shared_memory_are_off_until_they_are_asked_for(load):
    config = load({"models": {"m": MINE}})
    assert (config.grpc.port, config.shared_memory.system) == (None, False)
    environment = {"MISSILE_SHARED_MEMORY_SYSTEM": "true", "MISSILE_GRPC_PORT": "0"}
    config = load({"models": {"m": MINE}}, environment)
    assert (config.grpc.port, config.shared_memory.system) == (0, True)
    assert load(config.to_yaml()) == config


def test_who_may_call_is_read_from_the_file(load):
    token = {"tenant": "red", "sha256": "a" * 64, "models": ["m"]}
    config = load({"models": {"m": MINE}, "auth": {"tokens": [token]}})
    assert config.auth.tokens[0].calls == ["infer", "metadata"]
    assert load(config.to_yaml()) == config


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"auth": {"tokens": [{"tenant": "t", "sha256": "A" * 64}]}}, "auth.tokens[0].sha256: got"),
        ({"auth": {"tokens": [{"tenat": "t", "sha256": "a" * 64}]}}, "did you mean 'tenant'?"),
        ({"auth": {"tokens": [{"tenant": "t", "sha256": "a" * 64}] * 2}}, "its own sha256"),
        ({"tls": {"certificate": "server.pem"}}, "give certificate and key, or neither"),
        ({"tls": {"client_ca": "ca.pem"}}, "client_ca needs certificate and key"),
    ],
)
def test_wrong_access_is_refused(problems, section, message):
    assert message in "\n".join(problems({"models": {"m": MINE}} | section))


def test_what_is_printed_loads_to_the_same(load):
    document = {
        "models": [
            {"name": "m", **MINE, "slo": {"deadline_ms": 5}, "buckets": [1, 2]},
            {"name": "n", **MINE, "lengths": [8], "weight": 2, "tenant": "t", "queue_limit": 9},
        ]
    }
    config = load(document, {"MISSILE_POLICY": "fifo"})
    assert load(config.to_yaml()) == config


def test_the_example_is_valid():
    config = load_config(ROOT / "examples/serve.yaml", environment={}, flags={})
    assert config.models["classify"].zoo == "squeezenet"


def test_all_that_is_wrong_is_said_at_once(problems):
    document = {
        "polcy": "fifo",
        "be_floor": 1.5,
        "http": {"prt": 1, "max_body_bytes": 0},
        "models": [
            {"name": "a", "zoo": "squeezenett"},
            {"name": "b", "zoo": "squeezenet", "factory": "my_models:make"},
            {"name": "c"},
            {"name": "d", **MINE, "prioriti": 1, "buckets": [0], "slo": {"deadline": 5}},
            {"name": "a", **MINE},
            {"name": "e e", **MINE, "priority": "high", "weight": 0},
            {"name": "f", "factory": "my_models.make"},
            {"name": "g", "factory": "my_models:make_it"},
            {"name": "h", "factory": "no_models:make"},
            {"name": "i", "factory": "my_models:number"},
            {"name": "j", **MINE, "buckets": []},
            "k",
        ],
    }
    environment = {"MISSILE_HTTP_PORT": "99999", "MISSILE_POLICI": "fifo"}
    lines = problems(document, environment, host="")
    legal = "zoo, factory, priority, slo, buckets, lengths, tenant, weight, queue_limit, "
    legal += "pinned, timeout_ms, load"
    sections = ", ".join(ServerOptions.model_fields)
    variables = ", ".join(
        f"MISSILE_{section}_{key}".upper()
        for section, options in ServerOptions()
        for key in type(options).model_fields
    )
    zoo = "squeezenet, mobilenet, efficientnet, resnet50, resnet101, resnet152, minilm"
    assert sorted(lines) == sorted(
        [
            f"polcy: unknown key; did you mean 'policy'? allowed: {sections}, policy, "
            "be_floor, device_memory, host_memory, disk, tenants, timeout_ms, models",
            "be_floor: got 1.5; must be less than 1",
            "http.prt: unknown key; did you mean 'port'? allowed: host, port, max_body_bytes, "
            "max_header_bytes, max_connections, head_timeout_s, body_timeout_s, write_timeout_s, "
            "drain_delay_s, drain_s",
            "http.max_body_bytes: got 0; must be greater than or equal to 1",
            "MISSILE_HTTP_PORT (http.port): got 99999; must be less than or equal to 65535",
            "MISSILE_POLICI: unknown variable; did you mean 'MISSILE_POLICY'? allowed: "
            "MISSILE_POLICY, MISSILE_BE_FLOOR, MISSILE_DEVICE_MEMORY, MISSILE_HOST_MEMORY, "
            f"MISSILE_DISK, MISSILE_TIMEOUT_MS, {variables}",
            "--host (http.host): got ''; String must have at least 1 character",
            f"models.a.zoo: got 'squeezenett'; did you mean 'squeezenet'? allowed: {zoo}",
            "models.b.factory: got 'my_models:make'; give exactly one of zoo and factory",
            "models.c.factory: got None; give exactly one of zoo and factory",
            f"models.d.prioriti: unknown key; did you mean 'priority'? allowed: {legal}",
            "models.d.buckets[0]: got 0; must be greater than or equal to 1",
            "models.d.slo.deadline_ms: missing",
            "models.d.slo.deadline: unknown key; did you mean 'deadline_ms'? allowed: "
            "deadline_ms, percentile",
            "models[4].name: 'a' is taken by an earlier model",
            "models.e e: got 'e e'; model name 'e e' is not allowed; use 1 to 128 letters, "
            "digits, '.', '_' or '-', the first a letter or digit",
            "models.e e.priority: got 'high'; must be 'latency' or 'best_effort'",
            "models.e e.weight: got 0; must be greater than 0",
            "models.f.factory: got 'my_models.make'; must be 'package.module:function'",
            "models.g.factory: got 'my_models:make_it'; cannot be imported: module 'my_models' "
            "has no attribute 'make_it'",
            "models.h.factory: got 'no_models:make'; cannot be imported: No module named "
            "'no_models'",
            "models.i.factory: got 'my_models:number'; must name a function, 'number' is a int",
            "models.j.buckets: got []; List must have at least 1 item after validation, not 0",
            "models[11]: must be a mapping with a name, got 'k'",
        ]
    )


@pytest.mark.parametrize(
    ("document", "line"),
    [
        ({}, "models: missing"),
        ({"models": {}}, "models: got {}; Dictionary must have at least 1 item"),
        ({"models": None}, "models: got None; must be a valid dictionary"),
        ({"models": {7: MINE}}, "models[7]: got 7; must be a valid string"),
        ({"models": {"m": None}}, "models.m: got None; must be a valid dictionary"),
        ({"models": {"m": MINE}, "http": 8000}, "http: got 8000; must be a valid dictionary"),
        ({"models": {"m": MINE}, "http": {"port": "80"}}, "http.port: got '80'; must be a valid"),
        ({"models": {"m": MINE}, "http": {"port": True}}, "http.port: got True; must be a valid"),
        ({"models": {"m": MINE}, "http": {"drain_s": float("inf")}}, "http.drain_s: got inf"),
        (
            {"models": {"m": MINE}, "grpc": {"prt": 1}},
            "grpc.prt: unknown key; did you mean 'port'? allowed: host, port, max_message_bytes",
        ),
        (
            {"models": {"m": MINE}, "shared_memory": {"system": "yes"}},
            "shared_memory.system: got 'yes'; must be a valid boolean",
        ),
        ({"models": {"m": MINE}, "policy": "fif"}, "policy: got 'fif'; did you mean 'fifo'?"),
        (
            {"models": {"m": MINE}, "device_memory": "lots"},
            "device_memory: got 'lots'; must be a positive number of bytes, or a text such as",
        ),
        (
            {"models": {"m": MINE}, "disk": "/spill"},
            "disk: got '/spill'; needs host_memory",
        ),
        (
            {"models": {"m": MINE}, "host_memory": "1GiB"},
            "host_memory: got '1GiB'; needs device_memory",
        ),
        (
            {"models": {"m": MINE}, "tenants": {"search": {"link_weight": 2.0}}},
            "tenants: got {'search': {'link_weight': 2.0}}; needs device_memory",
        ),
        (
            {"models": {"m": MINE}, "device_memory": 1, "tenants": {"a": {"memory_quota": "x"}}},
            "tenants.a.memory_quota: got 'x'; must be a positive number of bytes",
        ),
        (
            {"models": {"m": MINE}, "policy": "fifo", "be_floor": 0.1},
            "be_floor: got 0.1; policy 'fifo' keeps no floor",
        ),
        (
            {"models": {"m": {**MINE, "slo": {"deadline_ms": 1, "percentile": 99}}}},
            "models.m.slo.percentile: got 99; must be less than 1",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_path(problems, document, line):
    (got,) = problems(document)
    assert got.startswith(line)


def test_an_environment_that_is_no_number_is_named(problems):
    (line,) = problems({"models": {"m": MINE}}, {"MISSILE_HTTP_PORT": "http"})
    assert line.startswith("MISSILE_HTTP_PORT (http.port): got 'http'; must be a valid integer")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models: {m: [", "is not YAML"),
        ("policy: fifo\npolicy: missile\n", "key 'policy' is given twice"),
        ("models:\n  m: {zoo: a}\n  m: {zoo: b}\n", "key 'm' is given twice"),
        ("- a\n", "must hold a mapping"),
        ("", "must hold a mapping"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(load, text, message):
    with pytest.raises(ConfigError, match=message):
        load(text)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "none.yaml", environment={}, flags={})


def test_a_factory_gives_the_model_and_the_file_its_options(load):
    options = {"slo": {"deadline_ms": 5}, "buckets": [4, 1], "tenant": "t"}
    config = load({"models": {"plain": MINE, "tuned": {**MINE, **options}}})
    plain, tuned = (section.build(name) for name, section in config.models.items())
    assert (plain.name, plain.priority, plain.buckets) == ("plain", Priority.LATENCY, (1,))
    assert (tuned.name, tuned.priority) == ("tuned", Priority.LATENCY)
    assert (tuned.slo, tuned.buckets, tuned.tenant) == (SLO(5, 0.99), (1, 4), "t")


def test_a_factory_may_give_what_the_zoo_gives(load):
    section = load({"models": {"m": {"factory": "my_models:like_the_zoo"}}}).models["m"]
    assert section.build("m").example.shape == (1, 2)


def test_a_factory_that_gives_no_model_is_named(load):
    section = load({"models": {"m": {"factory": "my_models:wrong"}}}).models["m"]
    with pytest.raises(ConfigError, match=r"models\.m\.factory='my_models:wrong' gave a int"):
        section.build("m")


def test_tenants_are_those_of_the_runtime(load):
    tenants = {"search": {"link_weight": 2.0, "memory_quota": "1MiB"}, "other": {}}
    config = load({"models": {"m": MINE}, "device_memory": "1GiB", "tenants": tenants})
    assert config.build_tenants() == {"search": Tenant(2.0, "1MiB"), "other": Tenant()}
    assert config.build_tenants()["search"].quota_bytes == 1 << 20
    assert load({"models": {"m": MINE}}).build_tenants() is None


def test_queue_limits_of_tenants_need_no_managed_memory(load):
    config = load({"models": {"m": MINE}, "tenants": {"search": {"queue_limit": 7}}})
    assert config.build_tenants() == {"search": Tenant(queue_limit=7)}


def test_sources_build_anew_each_time(load):
    models = {"m": MINE, "later": {**MINE, "load": "on_request"}}
    later, first = load({"models": models}).build_sources()  # the file has them sorted
    assert (first.name, first.on_request, later.on_request) == ("m", False, True)
    assert first.build() is not first.build()
    assert first.build().name == "m"


def test_a_models_own_timeout_comes_before_that_of_all(load):
    models = {"m": MINE, "slow": {**MINE, "timeout_ms": 9}}
    m, slow = load({"models": models, "timeout_ms": 5}).build_sources()
    assert (m.build().timeout_ms, slow.build().timeout_ms) == (5, 9)
    assert load({"models": models}).build_sources()[0].build().timeout_ms is None


def test_the_policy_keeps_its_floor(load):
    models = {"m": MINE}
    assert load({"models": models, "be_floor": 0.1}).build_policy() == Missile(
        best_effort_floor=0.1
    )
    assert load({"models": models, "policy": "fifo"}).build_policy() == Fifo()
