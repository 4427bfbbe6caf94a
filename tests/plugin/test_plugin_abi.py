"""What the wrapper declares of the ABI, against what others publish; what its table is made of."""

import ctypes
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from plugins import FILES, HEADER, LIBRARIES, WRAPPER, environment, run_json, run_python

PJRT = Path(__file__).parents[2] / "xla_plugin" / "pjrt"

# Names of structures and fields that are not the header's own.
STRUCTURES = {
    "Extension": "PJRT_Extension_Base",
    "ApiVersion": "PJRT_Api_Version",
    "NamedValue": "PJRT_NamedValue",
    "TiledLayout": "PJRT_Buffer_MemoryLayout_Tiled",
    "StridesLayout": "PJRT_Buffer_MemoryLayout_Strides",
    "Layout": "PJRT_Buffer_MemoryLayout",
    "ShapeSpec": "PJRT_ShapeSpec",
    "Program": "PJRT_Program",
    "ExecuteOptions": "PJRT_ExecuteOptions",
    "HostTarget": "PJRT_Buffer_CopyRawToHostFuture_Callback_Args",
}
# Slots and structures that are younger than the header; and what its structures leave out.
YOUNGER = {
    "ErrorForEachPayload",
    "DeviceClearMemoryStats",
    "BufferBitcast",
    "BufferCopyRawToHostFuture",
    "BufferDonateWithControlDependency",
    "ClientLoad",
    "HostTarget",
}


def without_comments(text: str) -> str:
    return re.sub(r"//.*", "", text)


def fields(body: str) -> list[str]:
    found = []
    for statement in re.sub(r"union \{|\}", "", body).split(";"):
        name = re.search(r"\(\*(\w+)\)|(\w+)(?:\[\d+\])?\s*$", statement)
        if name is not None:
            found.append(name[1] or name[2])
    return found


def our_structures() -> dict[str, list[str]]:
    """By the name in C++: its fields."""
    text = without_comments((PJRT / "api.h").read_text())
    found = {}
    for slot, name, body in re.findall(
        r"\nstruct (?:Arguments<Slot::k(\w+)>|(\w+)) \{\n(.*?)\n\};", text, re.S
    ):
        found[f"Arguments<Slot::k{slot}>" if slot else name] = fields(body)
    stats = found["Arguments<Slot::kDeviceMemoryStats>"]
    figures = stats[stats.index("bytes_in_use") + 1 :]
    del stats[-len(figures) :]
    stats += [f"{figure}.{part}" for figure in figures for part in ("value", "is_set")]
    del found["Api"], found["Figure"]
    return found


def header_slots() -> list[str]:
    return re.findall(r"_PJRT_API_STRUCT_FIELD\(PJRT_(\w+)\);", HEADER.read_text())


def their_name(ours: str) -> str | None:
    """Of the header's structure, or None if it is younger than the header."""
    slot = re.fullmatch(r"Arguments<Slot::k(\w+)>", ours)
    if (slot[1] if slot else ours) in YOUNGER:
        return None
    if slot is None:
        return STRUCTURES[ours]
    return next(f"PJRT_{n}_Args" for n in header_slots() if n.replace("_", "") == slot[1])


def their_fields(name: str) -> list[str]:
    text = without_comments(HEADER.read_text())
    body = re.search(rf"struct {name} \{{\n(.*?)\n\}}", text, re.S)
    assert body is not None, name
    return fields(body[1])


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[int]]]:
    """Offsets and sizes of all fields, ours and the header's, as a compiler sees them."""
    lines = [f'#include "{HEADER}"', f'#include "{PJRT / "api.h"}"', "#include <cstdio>"]
    lines += ["using namespace missile::pjrt;", "int main() {", 'std::puts("{");']

    def show(key: str, structure: str, names: list[str]) -> None:
        pairs = ", ".join("[%zu, %zu]" for _ in names)
        values = ", ".join(
            f"offsetof(T, {n}), sizeof(static_cast<T*>(nullptr)->{n})" for n in names
        )
        show_it = f'std::printf("\\"{key}\\": [{pairs}],", {values});'
        lines.append(f"{{ using T = {structure}; {show_it} }}")

    for ours, names in our_structures().items():
        show(f"ours {ours}", ours, names)
        if (theirs := their_name(ours)) is not None:
            show(f"theirs {ours}", theirs, their_fields(theirs)[: len(names)])
    lines += ['std::puts("\\"end\\": []}");', "}"]
    folder = tmp_path_factory.mktemp("abi")
    (folder / "show.cc").write_text("\n".join(lines))
    command = ["c++", "-std=c++17", "-Wno-invalid-offsetof", "show.cc", "-o", "show"]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    shown = subprocess.run(["./show"], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(shown.stdout)


def test_every_structure_fits_the_published_header(layouts):
    checked = 0
    for ours in our_structures():
        if their_name(ours) is None:
            continue
        assert layouts[f"ours {ours}"] == layouts[f"theirs {ours}"], ours
        checked += 1
    assert checked > 40


def test_every_structure_fits_the_newest_declarations(layouts, monkeypatch):
    monkeypatch.syspath_prepend(FILES)
    abi = importlib.import_module("pypjrt._abi.pjrt_0_114")
    names = {name.replace("_", ""): name for name in abi.SLOT}
    for ours in our_structures():
        slot = re.fullmatch(r"Arguments<Slot::k(\w+)>", ours)
        theirs = f"{names['PJRT' + slot[1]]}_Args" if slot else STRUCTURES[ours]
        if ours in ("NamedValue", "Layout"):
            continue  # With a union, which is one field there; the header has them.
        mine = layouts[f"ours {ours}"]
        described = [
            getattr(getattr(abi, theirs), name) for name, _ in getattr(abi, theirs)._fields_
        ]
        assert [[f.offset, f.size] for f in described][: len(mine)] == mine, ours


def test_slots_are_in_the_header_s_order(monkeypatch):
    monkeypatch.syspath_prepend(FILES)
    ours = re.findall(r"  F\((\w+)\)", (PJRT / "slots.h").read_text())
    published = [name.replace("_", "") for name in header_slots()]
    assert ours[: len(published)] == published
    newest = importlib.import_module("pypjrt._abi.pjrt_0_114").SLOT
    assert ours == [name.removeprefix("PJRT_").replace("_", "") for name in newest]


def test_the_library_exports_one_function():
    shown = subprocess.run(
        ["nm", "--dynamic", "--defined-only", WRAPPER], capture_output=True, text=True, check=True
    )
    assert [line.split()[-1] for line in shown.stdout.splitlines()] == ["GetPjrtApi"]


TABLE = """
import ctypes, json, sys
def table(path):
    get = ctypes.CDLL(path).GetPjrtApi
    get.restype = ctypes.c_void_p
    at = get()
    word = lambda i: ctypes.c_uint64.from_address(at + 8 * i).value
    version = [ctypes.c_int.from_address(at + 32 + 4 * i).value for i in range(2)]
    extensions, link = [], word(1)
    while link:
        extensions.append(link)
        link = ctypes.c_uint64.from_address(link + 16).value
    return word(0), version, extensions, [word(i) for i in range(5, word(0) // 8)]
print(json.dumps([table(sys.argv[1]), table(sys.argv[2])]))
"""


@pytest.mark.parametrize("minor", LIBRARIES)
def test_the_table_is_the_wrapped_one_with_a_few_slots_changed(minor):
    env = environment(minor, wrapped=True)
    done = subprocess.run(
        [sys.executable, "-c", TABLE, WRAPPER, LIBRARIES[minor]],
        env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ours, theirs = json.loads(done.stdout.splitlines()[-1])
    assert ours[:3] == theirs[:3]
    assert ours[1] == [0, minor]
    assert len(ours[2]) >= 4
    names = re.findall(r"  F\((\w+)\)", (PJRT / "slots.h").read_text())
    changed = {n for n, a, b in zip(names, ours[3], theirs[3], strict=False) if a != b}
    sources = "".join(path.read_text() for path in PJRT.glob("*.cc"))
    overridden = set(re.findall(r"table->(?:Override|Put|PutVoid)<Slot::k(\w+)>", sources))
    overridden -= {"PluginInitialize"}  # Put only where there is nothing to wrap.
    assert changed == {n for n in overridden if names.index(n) < len(theirs[3])}
    assert len(changed) <= 29


def test_a_library_that_is_no_plugin_is_a_client_s_error():
    code = f"""
import sys
sys.path.insert(0, {str(FILES)!r})
from pypjrt import _loader, client
plugin = _loader.Plugin({str(WRAPPER)!r})
client.Client(plugin)
"""
    env = environment(None, wrapped=True) | {"MISSILE_PJRT_LIBRARY": str(ctypes.__file__)}
    done = run_python(code, env)
    assert done.returncode != 0
    assert "missile: the plugin to wrap could not be loaded" in done.stderr
    done = run_python(code, environment(None, wrapped=True))
    assert "MISSILE_PJRT_LIBRARY must name its library" in done.stderr


def stub(folder: Path, body: str) -> Path:
    """A library that has no slot; `body` is all that it has behind what is known of the ABI."""
    source, library = folder / "stub.cc", folder / "stub.so"
    source.write_text(f'#include "{PJRT / "api.h"}"\nusing namespace missile::pjrt;\n{body}')
    command = ["c++", "-std=c++17", "-shared", "-fPIC", str(source), "-o", str(library)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return library


def table_of(major: int, minor: int) -> str:
    return f"""
const Api kApi = {{sizeof(Api), nullptr, {{sizeof(ApiVersion), nullptr, {major}, {minor}}}}};
extern "C" const Api* GetPjrtApi() {{ return &kApi; }}
"""


def refusal(library: Path) -> str:
    """What a client is told for which the wrapper can not wrap this library."""
    code = f"""
import sys
sys.path.insert(0, {str(FILES)!r})
from pypjrt import _loader, client
try:
    client.Client(_loader.Plugin({str(WRAPPER)!r}))
except Exception as error:
    print(error)
"""
    env = environment(None, wrapped=True) | {"MISSILE_PJRT_LIBRARY": str(library)}
    done = run_python(code, env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("major", "minor"), [(0, 59), (1, 114), (-1, 114)])
def test_an_incompatible_version_is_named_with_what_is_allowed(major, minor, tmp_path):
    library = stub(tmp_path, table_of(major, minor))
    assert (
        f"missile: the plugin to wrap, {library}, has version {major}.{minor} of the PJRT C API, "
        "and must have 0.60 or a later 0.x"
    ) in refusal(library)


@pytest.mark.parametrize("minor", [60, 1000])
def test_the_oldest_version_that_serves_and_those_to_come_are_wrapped(minor, tmp_path):
    library = stub(tmp_path, table_of(0, minor))
    env = environment(None, wrapped=True) | {"MISSILE_PJRT_LIBRARY": str(library)}
    done = subprocess.run(
        [sys.executable, "-c", TABLE, WRAPPER, library], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = json.loads(done.stdout)
    assert ours == theirs
    assert ours[1] == [0, minor]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("", "is no PJRT plugin: it has no function GetPjrtApi"),
        ('extern "C" const Api* GetPjrtApi() { return nullptr; }', "gave no table"),
    ],
)
def test_a_library_without_a_table_is_named(body, message, tmp_path):
    library = stub(tmp_path, body)
    found = refusal(library)
    assert f"missile: the plugin to wrap, {library}, {message}" in found


def test_statistics_are_an_extension_that_has_to_be_asked_for():
    code = """
import json
from missile_jax.plugin.statistics import read_statistics
import jax
jax.devices()
print(json.dumps(read_statistics()))
"""
    assert run_json(code, environment(115, wrapped=True)) is None
    counts = run_json(code, environment(115, wrapped=True, statistics=1))
    assert counts["tenants_made"] == 1
