"""The host side of the CUDA oracle under a fake driver, and its kernels under real compilers."""

import ctypes
import gc
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from missile_jax._native import CudaDevice, CudaProber
from missile_jax.coloring.gf2 import reduced
from missile_jax.coloring.gpu import cuda_oracle
from missile_jax.coloring.maps import PAGE_BYTES, XorMap
from missile_jax.coloring.published import published
from missile_jax.coloring.recover import recover
from missile_jax.coloring.sides import SideOracle
from missile_jax.errors import RecoveryError

ROOT = Path(__file__).parents[2]
FAKE = ROOT / "tests" / "fake_cuda"
SOURCE = ROOT / "xla_plugin" / "cuda" / "channel_probe.cu"
PTX = ROOT / "missile_jax" / "data" / "channel_probe.ptx"


@pytest.fixture(scope="module")
def fake_gpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Path of a fake driver that has kernels. Nothing may be misused or left behind."""
    path = tmp_path_factory.mktemp("fake_gpu") / "libcuda.so.1"
    command = ["c++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-shared"]
    sources = [str(FAKE / "fake_cuda.cc"), str(FAKE / "fake_kernels.cc")]
    subprocess.run([*command, "-fPIC", *sources, "-o", str(path)], check=True)
    yield str(path)
    gc.collect()
    library = ctypes.CDLL(str(path))
    library.fakeLeaks.restype = library.fakeMisuse.restype = ctypes.c_char_p
    assert library.fakeMisuse() == b""
    assert library.fakeLeaks() == b""
    assert library.fakeModules() == 0


def test_the_host_side_recovers_a_map_from_a_fake_gpu(fake_gpu: str) -> None:
    oracle = cuda_oracle(pages=12, repeats=1, driver=fake_gpu)
    assert oracle.gpu == "Fake GPU"
    found = recover(oracle, accuracy=0.99)
    assert isinstance(found.channel_map, XorMap)
    assert found.channel_map.granule_bytes == 1024
    gtx = published("gtx1080")
    assert reduced(found.channel_map.masks) == reduced(
        mask % PAGE_BYTES for mask in gtx.channels.masks
    )
    assert found.banks is not None
    assert found.banks.row_bytes == gtx.row_bytes
    assert found.accuracy.right == found.accuracy.tested


def test_l2_sides_are_recovered_from_latencies(fake_gpu: str) -> None:
    prober = cuda_oracle(pages=12, repeats=1, driver=fake_gpu)
    sides = SideOracle(prober.l2_latency_ns, prober.pages)
    found = recover(sides, accuracy=0.98)
    assert found.channel_map == published("h100_80gb_l2_side").channels
    # Pages differ in the side of their base.
    assert set(found.states.values()) == {0, 1}


def test_an_l2_of_one_side_is_refused() -> None:
    with pytest.raises(RecoveryError, match="do not fall into near and far"):
        SideOracle(lambda address: 200.0 + address % 7, pages=2)


@pytest.mark.parametrize(
    ("ask", "error", "message"),
    [
        (lambda p: p.pair_latency_ns(0, PAGE_BYTES), IndexError, "the range of 1 pages"),
        (lambda p: p.set_throughput([0] * 65, [0]), ValueError, "at most 64"),
        (lambda p: p.set_throughput([0], []), ValueError, "an address to measure"),
    ],
)
def test_bad_questions_are_refused(fake_gpu: str, ask, error, message: str) -> None:
    with pytest.raises(error, match=message):
        ask(cuda_oracle(pages=1, driver=fake_gpu))


def test_bad_probers_are_refused(fake_gpu: str) -> None:
    with pytest.raises(ValueError, match="Fake GPU has 20"):
        cuda_oracle(multiprocessor=20, driver=fake_gpu)
    with pytest.raises(ValueError, match="must be positive"):
        cuda_oracle(pages=0, driver=fake_gpu)
    with pytest.raises(RuntimeError, match="cuModuleLoadData"):
        CudaProber(CudaDevice(0, fake_gpu), "no kernels", pages=1)


def test_the_ptx_is_made_of_the_source() -> None:
    assert hashlib.sha256(SOURCE.read_bytes()).hexdigest() in PTX.read_text().splitlines()[0], (
        "channel_probe.cu has changed: run xla_plugin/cuda/make_ptx.sh"
    )


@pytest.mark.h100
@pytest.mark.parametrize("arch", ["sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"])
def test_the_ptx_is_taken_by_every_architecture(arch: str, tmp_path: Path) -> None:
    assembler = Path(sys.prefix) / "h100" / "nvidia" / "cuda_nvcc" / "bin" / "ptxas"
    if not assembler.exists():
        pytest.fail(f"{assembler} is missing: `make test` installs it there")
    command = [assembler, f"-arch={arch}", "-o", tmp_path / "out.cubin", PTX]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.cubin").stat().st_size > 0


@pytest.mark.parametrize("arch", ["sm_75", "sm_90"])
def test_nvcc_compiles_the_source(arch: str, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc: the kernels are checked in the form that is shipped only")
    command = [nvcc, f"-arch={arch}", "-cubin", "-Werror", "all-warnings"]
    done = subprocess.run(
        [*command, "-o", tmp_path / "out.cubin", SOURCE], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
