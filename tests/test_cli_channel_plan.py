"""``missile channels plan`` says what a plan is worth, and that it is simulated."""

import re

import pytest
from typer.testing import CliRunner

from missile_jax.cli import app
from missile_jax.cli.channel_plan import plan
from missile_jax.errors import ConfigError


def test_every_layout_is_told_and_labelled_as_simulated():
    asked = ["channels", "plan", "--gpu", "A2000", "--latency", "squeezenet"]
    asked += ["--best-effort", "squeezenet:1", "--requests", "50", "--busy", "0.2"]
    result = CliRunner().invoke(app, asked, catch_exceptions=False)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].strip() == "squeezenet beside squeezenet:1 on A2000 (simulated)"
    rows = {words[0]: words for line in lines if (words := line.split())}
    for layout in ("none", "static", "bimodal"):
        assert float(rows[layout][2]) >= float(rows[layout][1]) > 0
    assert rows["none"][3] == "+0.0"
    assert "channels: LS 4, BE 2 of 6" in lines
    shares = re.findall(r"([\d.]+)% of its bytes would be coloured", result.output)
    assert len(shares) == 2
    assert 0 <= float(shares[0]) < 100


def test_what_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="data sheet of GPU 'K80'"):
        plan(gpu="K80")
    with pytest.raises(ConfigError, match="'squeezenet:many': the batch is 'many'"):
        plan(latency="squeezenet:many")
    with pytest.raises(ConfigError, match="no model 'alexnet'"):
        plan(latency="alexnet")
