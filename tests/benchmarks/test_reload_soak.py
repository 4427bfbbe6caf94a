"""benchmarks.reload_soak: a short run of it, on a real server."""

from benchmarks import reload_soak


def test_no_request_fails_and_none_is_mixed_up(monkeypatch) -> None:
    monkeypatch.setattr(reload_soak, "RELOAD_EVERY_S", 0.4)
    summary = reload_soak.run(seconds=5.0, seed=1).summary
    assert summary["failed"] == summary["wrong"] == summary["failed_reloads"] == 0
    assert summary["reloads"] >= 2
    assert summary["requests"] > 100
