"""README.md and docs: the code runs, the figures are those of the committed JSON."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import missile_jax as mj
from benchmarks.readme import NOT_RUN, PAGES, RESULTS, fill

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def _examples() -> list[str]:
    text = (ROOT / "README.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_serve_example_serves() -> None:
    scope: dict = {"__name__": "example"}
    exec(_examples()[0], scope)
    with mj.serve(scope["models"], http_port=0, block=False) as serving:
        answer = serving.runtime.infer("classify", np.ones((1, 4), np.float32))
    assert answer.shape == (1, 3)


def test_the_embedding_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(_examples()[1], {"__name__": "example"})
    assert capsys.readouterr().out.strip().endswith("8")


def test_the_examples_are_short() -> None:
    for code in _examples():
        assert len(code.strip().splitlines()) <= 15


@pytest.mark.parametrize("name", ["02_embed", "03_own_loop", "04_best_effort"])
def test_the_example_scripts_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_the_served_example_is_loadable() -> None:
    scope = runpy.run_path(str(ROOT / "examples" / "01_serve.py"))
    with mj.Runtime() as runtime:
        info = runtime.load(scope["models"]()[0])
    assert info.buckets == (1, 8)


def test_the_operators_example_answers_its_client() -> None:
    missile = Path(sys.executable).with_name("missile")
    serve = [missile, "serve", EXAMPLES / "05_operate.yaml", "--http-port=0", "--grpc-port=0"]
    at_once = {**os.environ, "MISSILE_HTTP_DRAIN_DELAY_S": "0"}
    with subprocess.Popen(serve, stdout=subprocess.PIPE, text=True, env=at_once) as server:
        assert server.stdout is not None
        try:
            address = next(filter(None, (re.search(r"grpc://(\S+)", x) for x in server.stdout)))[1]
            ask = [sys.executable, EXAMPLES / "05_client.py", address]
            shown = subprocess.run(ask, capture_output=True, text=True, timeout=120, check=True)
        finally:
            server.terminate()
        assert server.stdout.read().splitlines() == [
            "loaded: photos",
            "loaded on request: texts",
            "stop with Ctrl-C",
            "draining",
            "stopped",
        ]
    assert server.returncode == 0
    assert shown.stdout.splitlines() == [
        "photos: READY",
        "texts: UNAVAILABLE it is loaded on request",
        "espresso",
    ]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_tables_are_those_of_the_json(page: Path) -> None:
    text = (ROOT / page).read_text()
    assert fill(text, ROOT / RESULTS) == text


def test_a_table_without_a_committed_run_says_so(tmp_path: Path) -> None:
    page = "before\n<!-- soak -->\n| old |\n<!-- /soak -->\nbehind"
    assert fill(page, tmp_path) == f"before\n<!-- soak -->\n{NOT_RUN}\n<!-- /soak -->\nbehind"
