"""The wrapper's own programs in C++, under sanitizers, with a plugin made for them."""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

NATIVE = Path(__file__).parents[2] / "xla_plugin"
FAKE = Path(__file__).parents[1] / "fake_pjrt" / "fake_pjrt.cc"
# Arena, link and what they need.
MEMORY = """arena arena_check arena_move copy cuda cuda_device cuda_mover cuda_region engine fair
holes link region view view_set""".split()
# A tenant of an arbiter.
TENANT = "decide futex memory tenant wire".split()
# What is fuzzed, and with how many inputs: `make soak` sets more.
RUNS = int(os.environ.get("PJRT_FUZZ_RUNS", "100000"))
FUZZED = ["arguments", "donations", "gather"]
FLAGS = ["-std=c++17", "-O0", "-g1", "-Wall", "-Wextra", "-Werror", "-pthread"]


def build(
    folder: Path,
    sanitizer: str,
    *sources: Path,
    flags: tuple[str, ...] = (),
    libraries: tuple[Path, ...] = (),
) -> Path:
    """A program, or a library, of all of these: each compiled by itself, two at a time."""
    checked = [*FLAGS, f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", *flags]

    def compile_one(source: Path) -> Path:
        target = folder / f"{source.parent.name}_{source.stem}.o"
        include = f"-I{NATIVE / 'src'}"
        command = ["c++", *checked, include, "-fPIC", "-c", str(source), "-o", str(target)]
        built = subprocess.run(command, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    target = folder / sources[0].stem
    linked = subprocess.run(
        ["c++", *checked, *map(str, [*objects, *libraries]), "-o", str(target), "-ldl"],
        capture_output=True,
        text=True,
    )
    assert linked.returncode == 0, linked.stderr
    return target


def run(*command: str | Path) -> str:
    """What it says, if it succeeds. At fixed addresses: some thread sanitizers know no others."""
    fixed = [setarch, platform.machine(), "-R"] if (setarch := shutil.which("setarch")) else []
    ran = subprocess.run([*fixed, *map(str, command)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address,undefined", "thread"])
def test_threads_use_the_wrapper_without_a_finding(sanitizer, tmp_path):
    fake = build(tmp_path, sanitizer, FAKE, flags=("-shared",))
    sources = [NATIVE / "tests" / f"pjrt_{noun}_test.cc" for noun in ("buffers", "copies")]
    sources += sorted((NATIVE / "pjrt").glob("*.cc"))
    sources += [NATIVE / "src" / f"{name}.cc" for name in MEMORY]
    sources += [NATIVE / "arbiter" / f"{name}.cc" for name in TENANT]
    program = build(tmp_path, sanitizer, NATIVE / "tests/pjrt_test.cc", *sources)
    assert "launches" in run(program, fake)


def libfuzzer() -> Path:
    """The runtime, which comes with atheris."""
    spec = importlib.util.find_spec("atheris")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parents[1] / "libclang_rt.fuzzer_no_main.a"


def test_nothing_is_found_in_what_copies_arguments(tmp_path):
    sources = [NATIVE / "pjrt" / f"{name}.cc" for name in FUZZED]
    sources.append(NATIVE / "tests/fuzz_main.cc")
    flags = ("-fsanitize-coverage=trace-pc,trace-cmp", "-Wl,--wrap=__sanitizer_cov_trace_pc")
    fuzz = build(
        tmp_path,
        "address,undefined",
        NATIVE / "tests/pjrt_fuzz.cc",
        *sources,
        flags=flags,
        libraries=(libfuzzer(),),
    )
    # Its own limit counts what the process that starts it has ever had.
    limits = ("-rss_limit_mb=0", "-malloc_limit_mb=1024", "-max_len=256")
    said = run(fuzz, f"-runs={RUNS}", "-seed=1", *limits, f"-artifact_prefix={tmp_path}/")
    assert f"Done {RUNS} runs" in said
    # It learns from what it reaches, else it is no better than noise.
    reached = [int(features) for features in re.findall(r" ft: (\d+)", said)]
    assert reached[-1] > 2 * reached[0]
