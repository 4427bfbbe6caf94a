"""Well-known programs that nobody here wrote, unmodified: with and without the wrapper the same."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from plugins import environment
from programs import flax_examples, seeded

# Of Flax's examples: a training loop that keeps its state, one with its data on several devices,
# and a checkpoint of Orbax that is written and read.
TRAIN, SHARDED, SAVED = (
    f"nnx_toy_examples/{name}.py"
    for name in ("03_train_state", "04_data_parallel_with_jit", "08_save_load_checkpoints")
)


@pytest.fixture(scope="module")
def examples() -> Path:
    return flax_examples.fetch()


def printed(minor: int, wrapped: bool, programs: list[Path], folder: Path) -> list[str]:
    env = environment(minor, wrapped) | {"MPLBACKEND": "agg", "TMPDIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", seeded.__file__, *map(str, programs)],
        env=env, cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # Where objects lie is told too.
    return re.sub("0x[0-9a-f]+", "0x", done.stdout).splitlines()


@pytest.mark.parametrize(("minor", "names"), [(115, (TRAIN, SHARDED, SAVED)), (81, (TRAIN,))])
def test_flax_s_examples_print_and_compute_the_same(minor, names, examples, tmp_path):
    programs = [examples / name for name in names]
    bare, wrapped = (printed(minor, w, programs, tmp_path) for w in (False, True))
    assert wrapped == bare
    digests = [line for line in bare if line.startswith('["')]
    assert len(digests) == len(programs)
    losses = [float(line.rpartition("loss: ")[2]) for line in bare if line.startswith("step: ")]
    assert losses[-1] < losses[0] / 10
