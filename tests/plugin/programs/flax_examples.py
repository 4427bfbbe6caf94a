"""Flax's own examples, which its wheel leaves out: from the source of the version installed."""

import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path


def fetch() -> Path:
    """The folder of the examples, in the environment; the first time asks the package index.

    Raises RuntimeError if it has no answer.
    """
    name = f"flax-{version('flax')}"
    folder = Path(sys.prefix) / "programs" / name
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as made:
            _download(name.replace("-", "=="), Path(made))
            with tarfile.open(Path(made) / f"{name}.tar.gz") as archive:
                archive.extractall(made, filter="data")
            (Path(made) / name).rename(folder)
    return folder / "examples"


def _download(requirement: str, into: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-q"]
    done = subprocess.run(
        [*pip, "--no-deps", "--no-binary", "flax", "--dest", str(into), requirement],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"pip has no source of {requirement}: {done.stderr[-1000:]}")
