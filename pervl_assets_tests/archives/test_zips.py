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
from pervl_assets.testing.hostile_archives import add_duplicate, add_member, add_symlink
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


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("../a.jpg", "climbs out"),
        ("train/../../a.jpg", "climbs out"),
        ("/etc/passwd", "absolute"),
        ("C:/a.jpg", "absolute"),
        ("train\\a.jpg", "backslash"),
        ("train/a\nb.jpg", "control"),
        ("train/a\0b.jpg", "control"),
        ("TRAIN/A.jpg", "upper and lower case"),
    ],
)
def test_hostile_names_are_refused_and_named(tmp_path, name, fault):
    path = add_member(write_zip(tmp_path / "a.zip", MEMBERS), name)
    with pytest.raises(ArchiveError, match=fault) as caught:
        read_index(path)
    assert "1 unsafe member" in caught.value.problem


def test_a_name_twice_is_refused(tmp_path):
    path = add_duplicate(write_zip(tmp_path / "a.zip", MEMBERS))
    with pytest.raises(ArchiveError, match="2 members of this name"):
        read_index(path)


def test_symbolic_links_are_refused(tmp_path):
    path = add_symlink(write_zip(tmp_path / "a.zip", MEMBERS), "train/link", "/etc/passwd")
    with pytest.raises(ArchiveError, match="symbolic link"):
        read_index(path)


def test_many_hostile_names_are_counted_and_some_are_shown(tmp_path):
    path = write_zip(tmp_path / "a.zip", {f"../{number}": b"" for number in range(250)})
    with pytest.raises(ArchiveError, match="250 unsafe members") as caught:
        read_index(path)
    assert len(caught.value.details) == 11
    assert caught.value.details[-1] == "and 240 more"


def test_a_bomb_is_refused_by_its_stated_size(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"bomb": bytes(8 << 20)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ArchiveError, match="inflates"):
        read_index(path)


def test_a_bomb_that_states_a_small_size_is_not_inflated(tmp_path, monkeypatch):
    path = write_zip(tmp_path / "a.zip", {"bomb": bytes(8 << 20)}, zipfile.ZIP_DEFLATED)
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", 8 << 20), struct.pack("<I", 1000)))
    inflated = []
    inflate = zips._inflate
    monkeypatch.setattr(zips, "_inflate", lambda *args: inflated.append(inflate(*args)) or inflated[-1])
    with pytest.raises(MemberError, match=r"1,001 bytes or more where the directory says 1,000"):
        read(path, "bomb")
    assert len(inflated[0]) == 1001


def test_places_outside_the_archive_are_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a": b"123456"})
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\1\2") + 42
    data[place : place + 4] = struct.pack("<I", 5000)
    path.write_bytes(bytes(data))
    with pytest.raises(ArchiveError, match="outside the archive"):
        read_index(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_is_refused(tmp_path, method):
    path = write_zip(tmp_path / "a.zip", MEMBERS, method)
    with pytest.raises(ArchiveError, match=f"method {method}"):
        read_index(path)


def test_a_wrong_crc_is_found(tmp_path):
    path = write_zip(tmp_path / "a.zip", MEMBERS)
    path.write_bytes(path.read_bytes().replace(b"firstfirst", b"firstFirst", 1))
    with pytest.raises(MemberError, match="CRC"):
        read(path, "train/a.jpg")
    assert read(path, "train/b.jpg") == MEMBERS["train/b.jpg"]


def test_damaged_compressed_bytes_are_found(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a": os.urandom(500)}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    data[31:60] = bytes(29)
    path.write_bytes(bytes(data))
    with pytest.raises(MemberError):
        read(path, "a")


def test_a_local_header_of_another_name_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", MEMBERS)
    path.write_bytes(path.read_bytes().replace(b"train/a.jpg", b"train/c.jpg", 1))
    with pytest.raises(MemberError, match="local header"):
        read(path, "train/a.jpg")


@pytest.mark.parametrize("left", [0, 10, 100, -1, -30])
def test_a_cut_off_directory_is_refused(tmp_path, left):
    path = write_zip(tmp_path / "a.zip", MEMBERS)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ArchiveError, match="not a whole zip"):
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
