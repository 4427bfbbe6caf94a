"""benchmarks.arrivals: seeded laws, trace formats."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.arrivals import from_trace, poisson


def test_poisson_is_seeded_and_has_its_rate() -> None:
    a, b = poisson(50.0, 20_000, seed=3), poisson(50.0, 20_000, seed=3)
    assert np.array_equal(a, b)
    assert len(a) / a[-1] == pytest.approx(50.0, rel=0.03)
    assert not np.array_equal(a, poisson(50.0, 20_000, seed=4))


TRACES = {
    "disb.json": json.dumps({"tasks": [{"load": {"trace": [0, 100, 250]}}, {"load": {}}]}),
    "azure2019.csv": "HashOwner,HashApp,HashFunction,Trigger,1,2\n"
    "a,b,c,http,3,1\nd,e,f,timer,0,2\n",
    "azure2021.csv": "app,func,end_timestamp,duration\na,b,10.5,0.5\na,b,12.0,1.0\n",
    "llm.csv": "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:17:03.9799600,1,2\n2023-11-16 18:17:04.0319600,1,2\n",
    "plain.txt": "0\n12.5\n80\n",
}


@pytest.mark.parametrize("name", TRACES)
def test_every_trace_format_is_read_and_stretched(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(TRACES[name])
    offsets = from_trace(path, rate_per_s=20.0, count=100, seed=0)
    assert len(offsets) == 100
    assert (np.diff(offsets) >= 0).all()
    assert len(offsets) / offsets[-1] == pytest.approx(20.0)


@pytest.mark.parametrize("text", ["words\nof no trace\n", '{"other": 1}', "7\n"])
def test_anything_else_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x"
    path.write_text(text)
    with pytest.raises(ValueError, match="trace"):
        from_trace(path, 1.0, 10, 0)
