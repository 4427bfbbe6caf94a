"""What each tenant had, and that nothing of the device's time or the link's bytes is missing."""

import csv
import io
import threading

import numpy as np
import pytest
from observed import X, linear

from missile_jax import Model, ModelRaisedError, Runtime
from missile_jax.observe.metering import meters


def test_what_tenants_had_adds_up_to_what_was_used(tmp_path, serve):
    records, copies = [], []
    options = {"device_memory": "1MiB", "cache_dir": tmp_path}
    with Runtime(**options, observer=records.append, copy_observer=copies.append) as runtime:
        for name, tenant in (("x", "a"), ("y", "a"), ("x2", "b")):
            runtime.load(linear(name, tenant=tenant, buckets=[1, 2]))
        clients = [
            threading.Thread(target=lambda n=name: [runtime.infer(n, X) for _ in range(20)])
            for name in ("x", "y", "x2", "x")
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        runtime.unload("y")
        runtime.load(linear("y", tenant="a"))
        runtime.infer("y", X)
        assert runtime.run_until_idle(60)
        made = meters(runtime.stats())
        status, headers, body = serve(runtime).ask("GET", "/v2/metering.csv")
    assert [(m.tenant, m.model, m.requests) for m in made] == [
        ("a", "x", 40),
        ("a", "y", 21),
        ("b", "x2", 20),
    ]
    assert sum(m.device_ns for m in made) == sum(r.ended_ns - r.started_ns for r in records)
    assert sum(m.link_bytes for m in made) == sum(c.size_bytes for c in copies) == 4 * 4096
    assert [m.input_bytes for m in made] == [m.requests * X.nbytes for m in made]
    assert [m.output_bytes for m in made] == [m.requests * 1024 for m in made]
    assert (status, headers["content-type"]) == (200, "text/csv; charset=utf-8")
    rows = list(csv.DictReader(io.StringIO(body.decode())))
    assert [int(row["device_ns"]) for row in rows] == [m.device_ns for m in made]
    assert [row["tenant"] for row in rows] == ["a", "a", "b"]


def test_a_model_that_fails_is_charged_for_its_time(tmp_path, barrier):
    point = barrier()
    with Runtime(cache_dir=tmp_path) as runtime:
        runtime.load(Model("m", lambda p, x: point.point(x), {}, example=np.zeros((1, 1))))
        point.raises = ValueError("no")
        with pytest.raises(ModelRaisedError):
            runtime.infer("m", np.zeros((1, 1)))
        (meter,) = meters(runtime.stats())
    assert meter.requests == 0
    assert meter.device_ns > 0
