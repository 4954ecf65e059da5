"""Central directories and members that are damaged, hostile or both."""

import os
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pervl_assets.archives import zips
from pervl_assets.archives.zip_index import read_index
from pervl_assets.archives.zips import MemberError, read_entry
from pervl_assets.core.errors import ArchiveError
from pervl_assets_tests.core.samples import write_encrypted_zip, write_zip

MEMBERS = {"train/a.jpg": b"first" * 40, "train/b.jpg": b"second" * 30, "train/empty.txt": b""}


def read(path: Path, name: str, password: bytes | None = None) -> bytes:
    file = os.open(path, os.O_RDONLY)
    try:
        return read_entry(file, name, read_index(path).entries[name], password)
    finally:
        os.close(file)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_are_read_as_zipfile_reads_them(tmp_path, method):
    path = write_zip(tmp_path / "a.zip", MEMBERS, method)
    assert {name: read(path, name) for name in read_index(path).entries} == MEMBERS


@pytest.mark.parametrize("deflate", [True, False])
def test_encrypted_members_are_read_as_zipfile_reads_them(tmp_path, deflate):
    path = write_encrypted_zip(tmp_path / "a.zip", MEMBERS, "geheim", deflate=deflate)
    with zipfile.ZipFile(path) as archive:
        assert {name: archive.read(name, b"geheim") for name in MEMBERS} == MEMBERS
    assert {name: read(path, name, b"geheim") for name in read_index(path).entries} == MEMBERS


def test_folders_are_not_members(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"train/": b"", **MEMBERS})
    assert set(read_index(path).entries) == set(MEMBERS)


def test_many_hostile_names_are_counted_and_some_are_shown(tmp_path):
    path = write_zip(tmp_path / "a.zip", {f"../{number}": b"" for number in range(250)})
    with pytest.raises(ArchiveError, match="250 unsafe members") as caught:
        read_index(path)
    assert len(caught.value.details) == 11
    assert caught.value.details[-1] == "and 240 more"


def test_a_bomb_that_states_a_small_size_is_not_inflated(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "a.zip", {"bomb": bytes(8 << 20)}, zipfile.ZIP_DEFLATED)
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 8 << 20), struct.pack("<I", 1000)))
    inflated = []
    inflate = zips._inflate
    monkeypatch.setattr(zips, "_inflate", lambda *args: inflated.append(inflate(*args)) or inflated[-1])
    with pytest.raises(MemberError, match=r"1,001 bytes or more where the directory says 1,000"):
        read(path, "bomb")
    assert len(inflated[0]) == 1001


@pytest.mark.parametrize("left", [0, 10, 100, -1, -30])
def test_a_cut_off_directory_is_refused(tmp_path, left):
    path = write_zip(tmp_path / "a.zip", MEMBERS)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ArchiveError, match=r"not a (whole )?zip"):
        read_index(path)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_flipped_bytes_never_give_wrong_bytes(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("zip")
    original = write_zip(folder / "a.zip", MEMBERS, zipfile.ZIP_DEFLATED).read_bytes()
    damaged = bytearray(original)
    for place in data.draw(st.lists(st.integers(0, len(original) - 1), min_size=1, max_size=4)):
        damaged[place] ^= data.draw(st.integers(1, 255))
    path = folder / "b.zip"
    path.write_bytes(bytes(damaged))
    try:
        entries = read_index(path).entries
    except ArchiveError:
        return
    for name, entry in entries.items():
        try:
            found = read(path, name)
        except MemberError:
            continue
        assert zlib.crc32(found) == entry.crc32
        assert len(found) == entry.size
