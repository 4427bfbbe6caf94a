"""The native parts' own programs, which use them from several threads, under sanitizers."""

import platform
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

PLUGIN = Path(__file__).parents[2] / "xla_plugin"

# A program of xla_plugin/tests, and what it needs of xla_plugin/src.
ARENA = """arena.cc arena_check.cc arena_move.cc copy.cc holes.cc region.cc view.cc
view_set.cc""".split()
GRANULES = "channel_map.cc granule_pages.cc granules.cc granules_move.cc".split()
PROGRAMS = {
    "arena_test.cc": ARENA,
    "granules_test.cc": [*ARENA, *GRANULES],
    "link_test.cc": ["copy.cc", "engine.cc", "fair.cc", "link.cc"],
    "arbiter_test.cc": [
        f"../arbiter/{part}.cc"
        for part in ("arbiter", "decide", "futex", "memory", "share", "tenant", "wire")
    ],
}
# What cuda_test.cc needs: arena, link, and CUDA's part of both.
CUDA_SOURCES = """arena arena_check arena_move copy cuda cuda_device cuda_mover cuda_region engine
fair holes link region view view_set""".split()
FAKE_CUDA = Path(__file__).parents[1] / "fake_cuda" / "fake_cuda.cc"
SANITIZERS = ["address,undefined", "thread"]


@dataclass(frozen=True)
class Sanitizer:
    """name: as -fsanitize= takes it. folder: for what is compiled, each source once."""

    name: str
    folder: Path

    def _call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["c++", f"-fsanitize={self.name}", "-fno-sanitize-recover=all", "-pthread"]
        return subprocess.run([*command, *arguments], capture_output=True, text=True)

    def build(
        self, program: Path, sources: list[Path], *options: str
    ) -> subprocess.CompletedProcess[str]:
        objects = [self.folder / f"{source.stem}.o" for source in sources]

        def compile_one(pair: tuple[Path, Path]) -> subprocess.CompletedProcess[str]:
            source, target = pair
            flags = ["-std=c++17", "-O1", "-g", "-fPIC", "-Wall", "-Wextra", "-Werror"]
            return self._call(*flags, f"-I{PLUGIN / 'src'}", "-c", str(source), "-o", str(target))

        pairs = [pair for pair in zip(sources, objects, strict=True) if not pair[1].exists()]
        with ThreadPoolExecutor(2) as pool:
            for compiled in pool.map(compile_one, pairs):
                if compiled.returncode != 0:
                    return compiled
        return self._call(*options, *map(str, objects), "-o", str(program), "-ldl")


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs it at fixed addresses: some compilers' thread sanitizers know no others."""
    fixed = [setarch, platform.machine(), "-R"] if (setarch := shutil.which("setarch")) else []
    return subprocess.run([*fixed, str(program), *arguments], capture_output=True, text=True)


@pytest.fixture(scope="module", params=SANITIZERS)
def sanitizer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Sanitizer:
    folder = tmp_path_factory.mktemp("sanitizer")
    one = Sanitizer(request.param, folder)
    source = folder / "nothing.cc"
    source.write_text("int main() { return 0; }\n")
    built = one.build(folder / "nothing", [source])
    if built.returncode != 0:
        pytest.skip(f"c++ has no -fsanitize={request.param}: {built.stderr[-300:]}")
    ran = run(folder / "nothing")
    if ran.returncode != 0:
        pytest.skip(f"-fsanitize={request.param} does not run here: {ran.stderr[-300:]}")
    return one


@pytest.mark.parametrize("name", PROGRAMS)
def test_threads_use_it_without_a_finding(name, sanitizer, tmp_path):
    sources = [PLUGIN / "tests" / name, *(PLUGIN / "src" / source for source in PROGRAMS[name])]
    program = tmp_path / Path(name).stem
    built = sanitizer.build(program, sources)
    assert built.returncode == 0, built.stderr
    ran = run(program)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.slow
def test_cuda_is_used_without_a_finding_on_the_fake_driver(sanitizer, tmp_path):
    driver, program = tmp_path / "libcuda.so.1", tmp_path / "cuda_test"
    built = sanitizer.build(driver, [FAKE_CUDA], "-shared")
    assert built.returncode == 0, built.stderr
    sources = [PLUGIN / "src" / f"{name}.cc" for name in CUDA_SOURCES]
    built = sanitizer.build(program, [PLUGIN / "tests" / "cuda_test.cc", *sources])
    assert built.returncode == 0, built.stderr
    ran = run(program, str(driver))
    assert ran.returncode == 0, ran.stdout + ran.stderr


# A race for one sanitizer, a write behind the end for the other.
FAULTY = """
#include <thread>
int main(int argc, char**) {
  int* counts = new int[argc];
  std::thread other([counts] { ++counts[0]; });
  ++counts[0];
  other.join();
  counts[argc] = 1;
  delete[] counts;
  return 0;
}
"""


def test_a_finding_fails_a_program(sanitizer, tmp_path):
    source = tmp_path / "faulty.cc"
    source.write_text(FAULTY)
    built = sanitizer.build(tmp_path / "faulty", [source])
    assert built.returncode == 0, built.stderr
    ran = run(tmp_path / "faulty")
    assert ran.returncode != 0
    assert "Sanitizer" in ran.stderr
