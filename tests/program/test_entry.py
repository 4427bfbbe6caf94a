"""program.entry: what was written comes back exactly, and whatever is not that is found."""

import json
import shutil

import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from missile_jax import CheckpointError, Runtime
from missile_jax.program import checkpoint, entry, orbax_tree

TREE = {
    "dense": {"kernel": np.arange(12, dtype=np.float32).reshape(3, 4), "bias": np.ones(4, np.int8)},
    "layers": [np.array(1.5, ml_dtypes.bfloat16), np.array([True, False])],
    "scale": np.array([1e-3, 448.0], ml_dtypes.float8_e4m3fn),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("entries") / "net"
    return folder, entry.write(folder, "net", TREE)


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written[0], tmp_path / "net")


def test_it_comes_back_to_the_bit(written):
    folder, manifest = written
    got = entry.read(folder)
    assert got.keys() == TREE.keys()
    for path, leaf in manifest.leaves.items():
        a, b = TREE, got
        for key in path.split("/"):
            a, b = (x[int(key)] if isinstance(x, list) else x[key] for x in (a, b))
        assert type(b) is np.ndarray
        assert (b.shape, b.dtype.name) == (a.shape, a.dtype.name) == (leaf.shape, leaf.dtype)
        assert b.tobytes() == a.tobytes()
    assert manifest.size_bytes == 48 + 4 + 2 + 2 + 2
    assert entry.verify(folder) == []
    assert entry.read_manifest(folder) == manifest


def test_a_part_comes_back_alone(written):
    assert list(entry.read(written[0], only=["scale"])) == ["scale"]


def test_orbax_reads_it_without_us(written):
    with ocp.StandardCheckpointer() as checkpointer:
        got = checkpointer.restore(written[0], orbax_tree.shapes(written[0]))
    np.testing.assert_array_equal(got["dense"]["kernel"], TREE["dense"]["kernel"])


@given(data=st.data())
def test_a_flipped_bit_anywhere_is_found(written, tmp_path_factory, data):
    folder = shutil.copytree(written[0], tmp_path_factory.mktemp("flip") / "net")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    path = data.draw(st.sampled_from(files))
    content = bytearray(path.read_bytes())
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    assert any(path.relative_to(folder).as_posix() in line for line in entry.verify(folder))


def largest(folder):
    files = (path for path in (folder / "ocdbt.process_0").rglob("*") if path.is_file())
    return max(files, key=lambda path: path.stat().st_size)


def test_a_truncated_file_is_found(copy):
    path = largest(copy)
    path.write_bytes(path.read_bytes()[:-1])
    assert f"file {path.relative_to(copy)} has changed" in entry.verify(copy)


def test_missing_and_added_files_are_found(copy):
    (copy / "_METADATA").unlink()
    (copy / "more").write_text("")
    lines = entry.verify(copy)
    assert "file _METADATA is missing" in lines
    assert "file more was not written" in lines
    with pytest.raises(CheckpointError, match="is damaged"):
        entry.read(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: {**tree, "more": np.ones(1)}, "another tree than was written: more"),
        (lambda tree: {**tree, "scale": tree["scale"][:1]}, r"scale has shape \(1,\)"),
        (lambda tree: {**tree, "scale": np.ones(2)}, r"scale has .* dtype float64, \(2,\) and fl"),
        (lambda tree: {**tree, "scale": tree["scale"][::-1]}, "bytes that were written: scale"),
    ],
)
def test_another_tree_shape_dtype_or_value_than_was_written_is_found(
    tmp_path, written, change, message
):
    orbax_tree.save(tmp_path / "net", change(TREE))
    shutil.copy(written[0] / entry.MANIFEST, tmp_path / "net")
    with pytest.raises(CheckpointError, match=message):
        entry.read(tmp_path / "net")


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body | {"name": "other"},
        lambda body: body | {"format": 2},
        lambda body: {key: value for key, value in body.items() if key != "files"},
        lambda body: [body],
    ],
)
def test_a_manifest_that_was_changed_is_refused(copy, change):
    path = copy / entry.MANIFEST
    path.write_text(json.dumps(change(json.loads(path.read_text())), indent=1, sort_keys=True))
    with pytest.raises(CheckpointError, match=r"missile\.json cannot be read"):
        entry.read(copy)


def test_an_array_that_orbax_cannot_write_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="zero size"):
        entry.write(tmp_path / "net", "net", {"empty": np.zeros(0, np.float32)})


def test_a_model_is_checked_when_it_is_loaded(copy):
    def scaled(params, x):
        return x @ params["dense"]["kernel"]

    x = np.ones((1, 3), np.float32)
    with Runtime() as runtime:
        runtime.load("good", model=scaled, checkpoint=copy, example=x)
        np.testing.assert_array_equal(runtime.infer("good", x), x @ TREE["dense"]["kernel"])
        path = copy / entry.MANIFEST
        path.write_text(path.read_text().replace("net", "nut"))
        with pytest.raises(CheckpointError, match=r"model 'bad': .*its own digest"):
            runtime.load("bad", model=scaled, checkpoint=copy, example=x)
        runtime.infer("good", x)


def test_a_reader_follows_an_entry_that_is_replaced(written, tmp_path, monkeypatch):
    old, new = tmp_path / "old", tmp_path / "new"
    entry.write(old, "net", {"x": np.zeros(2)})
    entry.write(new, "net", {"x": np.ones(2)})
    link = tmp_path / "net"
    link.symlink_to(old)
    read = entry.read

    def replaced_meanwhile(folder):
        if folder == old:
            shutil.rmtree(old)
            link.unlink()
            link.symlink_to(new)
        return read(folder)

    monkeypatch.setattr(entry, "read", replaced_meanwhile)
    np.testing.assert_array_equal(checkpoint.read("net", link)["x"], np.ones(2))
