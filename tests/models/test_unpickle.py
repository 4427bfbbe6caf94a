import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from missile_jax.models import UnsafePickleError, fetch
from missile_jax.models.unpickle import load_numpy, load_torch


def text(value):
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value):
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def row(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(count, kind=b"ctorch\nFloatStorage\n", key="k"):
    return b"(" + text("storage") + kind + text(key) + text("cpu") + number(count) + b"NtQ"


def tensor(over, offset, size, stride):
    args = over + number(offset) + row(size) + row(stride)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + args + b"tR"


def state_dict(value):
    """{"w": value}, as opcodes."""
    return b"\x80\x02ccollections\nOrderedDict\n)R" + text("w") + value + b"s."


SIX = np.arange(6, dtype="<f4")


def legacy(body, keys=("k",), storages=(SIX,)):
    """The bytes of a legacy .pth file with `body` as its main pickle."""
    head = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    tail = [struct.pack("<q", s.size) + s.tobytes() for s in storages]
    return b"".join([*head, body, pickle.dumps(list(keys), 2), *tail])


GOOD = legacy(state_dict(tensor(storage(6), 0, (2, 3), (3, 1))))


def written(tmp_path, data, name="w.pth"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.smoke
def test_reads_a_tensor_and_a_transposed_view_with_an_offset(tmp_path):
    state = load_torch(written(tmp_path, GOOD))
    np.testing.assert_array_equal(state["w"], [[0, 1, 2], [3, 4, 5]])
    view = legacy(state_dict(tensor(storage(6), 1, (2, 2), (1, 3))))
    np.testing.assert_array_equal(load_torch(written(tmp_path, view))["w"], [[1, 4], [2, 5]])


class Attack:
    def __reduce__(self):
        return (os.system, ("touch attacked",))


@pytest.mark.smoke
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_function_call_is_refused_by_name_and_not_made(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    payload = pickle.dumps({"w": Attack()}, protocol)
    with pytest.raises(UnsafePickleError, match=r"asks for the global posix\.system, which is"):
        load_numpy(written(tmp_path, payload, "w.pkl"))
    with pytest.raises(UnsafePickleError, match=r"asks for the global posix\.system, which is"):
        load_torch(written(tmp_path, legacy(payload)))
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("place", range(4))
def test_a_function_call_is_refused_in_every_part_of_a_file(tmp_path, place):
    parts = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {}, OrderedDict(), [])]
    parts[place] = pickle.dumps(Attack(), 2)
    with pytest.raises(UnsafePickleError, match=r"posix\.system"):
        load_torch(written(tmp_path, b"".join(parts)))


ZERO_STRIDE = tensor(storage(6), 0, (10**6,), (0,))


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (tensor(storage(6), 0, (2, 4), (3, 1)), "leaves its storage of 6 elements"),
        (tensor(storage(6), 6, (1,), (1,)), "leaves its storage"),
        (tensor(storage(6), -1, (1,), (1,)), "leaves its storage"),
        (tensor(storage(6), 5, (2,), (-1,)), "leaves its storage"),
        (tensor(ZERO_STRIDE, 0, (10**6,), (1,)), "a tensor over array"),
        (tensor(storage(6), 0, (2, 3), (1,)), "a tensor over"),
        (tensor(storage(10**12), 0, (1,), (1,)), r"claims 1000000000000 elements"),
        (storage(6), "'w' is _Storage, no tensor"),
        (tensor(storage(6, kind=text("<f8")), 0, (1,), (1,)), "allowed: float32 and int64"),
    ],
)
def test_refuses_tensors_that_reach_outside_their_storage(tmp_path, value, complaint):
    with pytest.raises(UnsafePickleError, match=complaint):
        load_torch(written(tmp_path, legacy(state_dict(value))))


def test_refuses_a_storage_whose_bytes_are_missing(tmp_path):
    body = state_dict(tensor(storage(6), 0, (6,), (1,)))
    with pytest.raises(UnsafePickleError, match=r"lacks the storages \['k'\]"):
        load_torch(written(tmp_path, legacy(body, keys=(), storages=())))


def test_refuses_the_zip_form_and_what_is_no_state_dict(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pth", "w") as file:
        file.writestr("archive/data.pkl", b"\x80\x02}.")
    with pytest.raises(UnsafePickleError, match=r"w\.pth"):
        load_torch(tmp_path / "w.pth")
    with pytest.raises(UnsafePickleError, match=r"no legacy \.pth file: it starts with"):
        load_torch(written(tmp_path, pickle.dumps(1) * 3))
    with pytest.raises(UnsafePickleError, match="holds list, not a state dict"):
        load_torch(written(tmp_path, legacy(pickle.dumps([], 2), keys=(), storages=())))


@settings(max_examples=60, deadline=None)
@given(length=st.integers(0, len(GOOD) - 1))
def test_a_truncated_file_is_refused(tmp_path_factory, length):
    path = written(tmp_path_factory.mktemp("cut"), GOOD[:length])
    with pytest.raises(UnsafePickleError):
        load_torch(path)


def test_a_truncated_numpy_file_is_refused(tmp_path):
    data = fetch("squeezenet").read_bytes()
    for length in (0, 1, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(UnsafePickleError):
            load_numpy(written(tmp_path, data[:length], "w.pkl"))


def numpy1(value):
    """A pickle as numpy 1 wrote it: that module was named `numpy.core`."""
    file = io.BytesIO()
    pickle.Pickler(file, 3).dump(value)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def test_reads_float_arrays_in_dicts_and_lists(tmp_path):
    value = {"a": [np.arange(6, dtype="f4").reshape(2, 3), np.asfortranarray(np.eye(3) * 2)]}
    got = load_numpy(written(tmp_path, numpy1(value), "w.pkl"))
    np.testing.assert_array_equal(got["a"][0], value["a"][0])
    np.testing.assert_array_equal(got["a"][1], value["a"][1])
    assert got["a"][0].dtype == np.float32


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (np.array([{}], object), "arrays of dtype 'O8' are refused"),
        (np.array([1]), "arrays of dtype 'i8' are refused"),
        (np.array([1.0], ">f8"), "a dtype of state"),
        ({"a": "words"}, "str is refused; allowed: dict, list, array"),
    ],
)
def test_refuses_what_is_no_float_array(tmp_path, value, complaint):
    with pytest.raises(UnsafePickleError, match=complaint):
        load_numpy(written(tmp_path, numpy1(value), "w.pkl"))
