"""/metrics, read as Prometheus reads it, and the dashboard and the documentation of it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from harness import Gate, tensor, wait_for_queue
from observed import X, linear
from prometheus_client.parser import text_string_to_metric_families

from missile_jax import DeadlineExceededError, QueueFullError, Runtime
from missile_jax.engine.stats import BOUNDS_NS
from missile_jax.memory.flows import Flows
from missile_jax.options import ObserveOptions

DOCS = Path(__file__).parents[2] / "docs"
GPU = (
    "nv_gpu_utilization",
    "nv_gpu_power_usage",
    "nv_gpu_memory_used_bytes",
    "nv_gpu_memory_total_bytes",
)


def scrape(client):
    """Families by name."""
    status, headers, body = client.ask("GET", "/metrics")
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=")
    return {family.name: family for family in text_string_to_metric_families(body.decode())}


def value(families, name, **labels):
    """Of the one sample that has these labels."""
    (found,) = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return found


def test_counts_are_those_of_the_requests_that_were_sent(tmp_path, serve):
    gate = Gate()
    with Runtime(cache_dir=tmp_path) as runtime:
        runtime.load(gate.model("gate", tenant="t", queue_limit=2))
        client = serve(runtime)
        for number in range(3):
            client.ask("POST", "/v2/models/gate/infer", tensor(number))
        assert client.ask("POST", "/v2/models/gate/infer", tensor(-1))[0] == 500
        gate.shut()
        one = np.ones((1, 1), np.float32)
        running = runtime.submit("gate", one)
        gate.wait_entered()
        leaving = runtime.submit("gate", one)
        late = runtime.submit("gate", one, deadline_ms=100)
        with pytest.raises(DeadlineExceededError):
            late.result(60)
        waiting = runtime.submit("gate", one)
        with pytest.raises(QueueFullError):
            runtime.submit("gate", one)
        families = scrape(client)
        assert value(families, "missile_queue_depth", model="gate", tenant="t") == 2
        assert value(families, "missile_launches_in_flight", model="gate") == 1
        leaving.cancel()
        wait_for_queue(runtime, client, 1)
        gate.open()
        assert running.result(60) == waiting.result(60) == 2
        families = scrape(client)
    outcomes = {"success": 5, "error": 1, "cancelled": 1, "deadline": 1, "rejected": 1}
    for outcome, count in outcomes.items():
        labels = {"model": "gate", "tenant": "t", "outcome": outcome}
        assert value(families, "missile_requests_total", **labels) == count
    for phase in ("total", "queue", "swap", "compute"):
        name = "missile_request_duration_seconds_count"
        assert value(families, name, model="gate", phase=phase) == 5
    assert value(families, "nv_inference_request_success", model="gate", version="1") == 5
    assert value(families, "missile_request_input_bytes_total", model="gate") == 5 * 4
    assert value(families, "missile_request_output_bytes_total", model="gate") == 5 * 4
    assert value(families, "missile_batch_rows_count", model="gate") == 5
    assert value(families, "missile_batch_rows_sum", model="gate") == 5


def test_a_histogram_s_buckets_add_up(managed, serve):
    managed.infer("quick", X)
    family = scrape(serve(managed))["missile_request_duration_seconds"]
    buckets = [
        sample
        for sample in family.samples
        if sample.name.endswith("_bucket")
        and sample.labels["model"] == "quick"
        and sample.labels["phase"] == "total"
    ]
    bounds = [float(bucket.labels["le"]) for bucket in buckets]
    assert bounds == [*(ns / 1e9 for ns in BOUNDS_NS), float("inf")]
    values = [bucket.value for bucket in buckets]
    assert values == sorted(values)
    assert values[-1] == managed.stats()["models"]["quick"]["success_count"]


def test_a_link_with_two_directions_shows_both(managed, serve, monkeypatch):
    both = {"bytes": 1, "waited_ns": 0, "to_host": {"bytes": 5, "waited_ns": 2_000_000_000}}
    monkeypatch.setattr(Flows, "stats", lambda _: {"a/latency": both})
    families = scrape(serve(managed))
    link = "missile_link_bytes_total"
    assert value(families, link, tenant="a", direction="to_device") == 1
    assert value(families, link, tenant="a", direction="to_host") == 5
    assert value(families, "missile_link_wait_seconds_total", direction="to_host") == 2


def test_memory_and_link_are_shown_by_model_and_by_tenant(managed, serve):
    managed.infer("quick", X)
    managed.infer("other", X)
    managed.evict("other")
    managed.infer("other", X)
    families = scrape(serve(managed))
    assert value(families, "missile_swap_ins_total", model="other") == 2
    assert value(families, "missile_evictions_total", model="other") == 1
    assert value(families, "missile_evicted_bytes_total", model="other") == 4096
    assert value(families, "missile_swap_in_bytes_total", model="other") == 2 * 4096
    link = "missile_link_bytes_total"
    assert value(families, link, tenant="b", priority="best_effort") == 2 * 4096
    assert value(families, link, tenant="a", priority="latency", direction="to_device") == 4096
    assert value(families, "missile_resident_bytes", model="other") >= 4096
    assert value(families, "missile_arena_size_bytes") == 3 * 2**18
    assert value(families, "missile_slo_attainment_ratio", model="quick") == 1
    assert value(families, "missile_slo_seconds", model="quick") == 10


def test_counters_go_on_when_a_model_was_unloaded(managed, serve):
    client = serve(managed)
    managed.load(linear("brief", tenant="b"))
    managed.infer("brief", X)
    managed.unload("brief")
    name = "missile_requests_total"
    assert value(scrape(client), name, model="brief", outcome="success") == 1
    managed.load(linear("brief", tenant="b"))
    managed.infer("brief", X)
    families = scrape(client)
    assert value(families, name, model="brief", outcome="success") == 2
    assert value(families, "missile_swap_ins_total", model="brief") == 2
    managed.unload("brief")


def test_the_names_that_triton_s_clients_read(managed, serve):
    client = serve(managed)
    families = scrape(client)
    managed.infer("quick", X)
    again = scrape(client)
    for name in GPU:
        (sample,) = families[name].samples
        assert sample.labels == {"gpu_uuid": "cpu-0"}
    total = value(again, "nv_gpu_memory_total_bytes")
    assert 0 < value(again, "nv_gpu_memory_used_bytes") < total
    assert 0 < value(again, "nv_gpu_utilization") <= 1


def test_open_metrics_for_those_who_ask(managed, serve):
    status, headers, body = serve(managed).ask(
        "GET", "/metrics", Accept="application/openmetrics-text; version=1.0.0"
    )
    assert status == 200
    assert headers["content-type"].startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_metrics_can_be_switched_off(managed, serve):
    client = serve(managed, observe=ObserveOptions(metrics=False))
    assert client.error("GET", "/metrics")[0] == 404


def test_the_documentation_lists_every_metric(managed, serve):
    managed.infer("quick", X)
    exposed, client = {}, serve(managed)
    scrape(client)
    for family in scrape(client).values():
        labels = {label for s in family.samples for label in s.labels} - {"le"}
        name = family.name + ("_total" if family.type == "counter" else "")
        exposed[name] = labels
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|", (DOCS / "metrics.md").read_text(), re.MULTILINE)
    assert {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows} == exposed


def test_the_dashboard_asks_for_what_there_is(managed, serve):
    managed.infer("quick", X)
    labels, client = {}, serve(managed)
    scrape(client)
    for family in scrape(client).values():
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    dashboard = json.loads((DOCS / "grafana" / "missile.json").read_text())
    expressions = [
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())
    ]
    asked = set(re.findall(r"\b(?:missile|nv)_\w+", " ".join(expressions)))
    assert asked >= {
        "missile_requests_total", "missile_device_seconds_total", "missile_link_bytes_total",
        "missile_link_wait_seconds_total", "missile_resident_bytes",
        "missile_server_requests_total",
    }  # fmt: skip
    for expression in expressions:
        names = re.findall(r"\b(?:missile|nv)_\w+", expression)
        assert names, expression
        known = set().union(*(labels[name] for name in names))
        used = re.findall(r"(\w+)\s*=~?\s*\"", expression)
        for group in re.findall(r"\bby \(([^)]*)\)", expression):
            used += re.split(r"\s*,\s*", group)
        assert set(used) <= known, expression
