"""Zips that are odd and honest are read; files that are no whole zip are named for what they are."""

import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from pervl_assets.archives import zip_directory
from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.archives.members import open_members
from pervl_assets.archives.zip_index import read_index
from pervl_assets.core.errors import ArchiveError
from pervl_assets.testing.hostile import add_member
from pervl_assets_tests.core.samples import write_zip

MEMBERS = {"train/a.jpg": b"first" * 40, "train/b.jpg": b"second" * 30}
MIB = 1 << 20


def read_all(path: Path) -> dict[str, bytes]:
    with open_members(RawArchive(path, identify(path))) as members:
        return {name: members.read(name) for name in members.names}


def rewrite(path: Path, change) -> Path:
    path.write_bytes(change(write_zip(path, MEMBERS).read_bytes()))
    return path


def write_zip64(path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    with monkeypatch.context() as patched:
        patched.setattr(zipfile, "ZIP64_LIMIT", 10)
        data = write_zip(path, MEMBERS).read_bytes()
    assert b"PK\6\6" in data
    return data


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + bytes(512),
        lambda data: data + b"<!-- served by mirror -->" * 9999,
        lambda data: data + bytes(3 * MIB),
        lambda data: data[:-2] + struct.pack("<H", 9) + b"PK\5\6 note",
        lambda data: b"#!/bin/sh\nexit\n" + data,
        lambda data: data.replace(b"train/", b"train\\"),
    ],
    ids=["zeros behind", "text behind", "megabytes behind", "comment", "script before", "backslashes"],
)
def test_odd_zips_are_read(tmp_path, change):
    assert read_all(rewrite(tmp_path / "a.zip", change)) == MEMBERS


@pytest.mark.parametrize(("before", "behind"), [(b"", b""), (b"x" * 99, b""), (b"", bytes(99))])
def test_zip64_is_read_with_bytes_before_or_behind(tmp_path, monkeypatch, before, behind):
    path = tmp_path / "a.zip"
    path.write_bytes(before + write_zip64(path, monkeypatch) + behind)
    assert read_all(path) == MEMBERS


def test_a_zip_of_macos_above_4_gib_without_zip64_is_read(tmp_path):
    path, directory = tmp_path / "a.zip", b""
    hole = 250 * MIB
    with path.open("wb") as file:
        for name, data, size in [(f"hole{n}", b"", hole) for n in range(17)] + [
            (n, d, len(d)) for n, d in MEMBERS.items()
        ]:
            place, lengths = file.tell() % (1 << 32), (zlib.crc32(data), size, size, len(name))
            file.write(struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 33, *lengths, 0) + name.encode() + data)
            file.seek(size - len(data), 1)
            directory += struct.pack("<4s6H3I5H2I", b"PK\1\2", 788, 20, 0, 0, 0, 33, *lengths, 0, 0, 0, 0, 0, place)
            directory += name.encode()
        start = file.tell() % (1 << 32)
        file.write(directory + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 19, 19, len(directory), start, 0))
    with open_members(RawArchive(path, identify(path))) as members:
        assert {name: members.read(name) for name in MEMBERS} == MEMBERS


@pytest.mark.parametrize("name", ["train/Icon\r", "train/a\n.jpg", "train/a.jpg\0.txt", "a\u202ebc", "\x1b[2J"])
def test_members_that_nothing_can_ask_for_are_left_out_with_a_warning(tmp_path, caplog, name):
    path = add_member(write_zip(tmp_path / "a.zip", MEMBERS), name)
    assert read_all(path) == MEMBERS
    assert "1 of 3 members of" in caplog.text
    assert ascii(name) in caplog.text
    assert name not in caplog.text


def test_an_archive_of_such_members_only_is_refused(tmp_path):
    with pytest.raises(ArchiveError, match="2 of 2 members"):
        identify(write_zip(tmp_path / "a.zip", {"a\r": b"", "b\r": b""}))


def test_a_member_of_another_compression_matters_only_where_it_is_needed(tmp_path):
    path = write_zip(tmp_path / "a.zip", MEMBERS)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme", b"text" * 99, zipfile.ZIP_BZIP2)
    with open_members(RawArchive(path, identify(path))) as members:
        assert members.select(list(MEMBERS)).read("train/a.jpg") == MEMBERS["train/a.jpg"]
        with pytest.raises(ArchiveError, match=r"3 members .* 1 cannot be read here: compressed with bzip2") as caught:
            members.select([*MEMBERS, "readme"])
    assert "the unpacked folder is read" in caught.value.advice


def test_an_archive_that_is_all_of_another_compression_is_refused_at_once(tmp_path):
    with pytest.raises(ArchiveError, match=r"2 members .* 2 cannot be read here: compressed with LZMA"):
        identify(write_zip(tmp_path / "a.zip", MEMBERS, zipfile.ZIP_LZMA))


def test_names_of_two_normal_forms_are_twins(tmp_path):
    with pytest.raises(ArchiveError, match="2 members of this name"):
        identify(write_zip(tmp_path / "a.zip", {"caf\u00e9": b"", "cafe\u0301": b""}))


@pytest.mark.parametrize(
    ("start", "words", "advice"),
    [
        (b"", "is empty", "fetch it again"),
        (bytes(9999), "zero bytes", "not finished"),
        (b"\n<!DOCTYPE html><html>", "a web page", "log in"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS", "git lfs pull"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(99), "7z", "Unpack"),
        (b"Rar!\x1a\x07\x01\0", "RAR", "Unpack"),
        (b"\x1f\x8b\x08", "gzip", "Unpack"),
        (bytes(100) + b"a" * 157 + b"ustar\x0000", "tar archive", "Unpack"),
        (b"PK\x07\x08PK\3\4", "first part of a split zip", "zip -s 0 a.zip"),
        (b"PK\3\4" + b"x" * 99, "cut off after 103 bytes", "continue the download"),
        (b"words", "5 bytes of another kind", "official address"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, start, words, advice):
    path = tmp_path / "a.zip"
    path.write_bytes(start)
    with pytest.raises(ArchiveError, match=words) as caught:
        read_index(path)
    assert advice in caught.value.advice


def test_the_last_part_of_a_split_zip_is_named(tmp_path):
    path = rewrite(tmp_path / "a.zip", lambda data: data[:-18] + struct.pack("<HH", 2, 2) + data[-14:])
    with pytest.raises(ArchiveError, match="part 3 of a split zip") as caught:
        read_index(path)
    assert "zip -s 0 a.zip" in caught.value.advice


@pytest.mark.parametrize("other", ["a.z01", "a.zip.002"])
def test_any_part_beside_others_is_named(tmp_path, other):
    path = rewrite(tmp_path / "a.zip", lambda data: data[:100])
    (tmp_path / other).touch()
    with pytest.raises(ArchiveError, match="one part of a split zip"):
        read_index(path)


def test_a_zip_inside_a_zip_that_is_cut_off_is_not_taken_for_it(tmp_path):
    inner = write_zip(tmp_path / "inner.zip", {"c": b"third"}).read_bytes()
    path = write_zip(tmp_path / "a.zip", {"inner.zip": inner, **MEMBERS})
    path.write_bytes(path.read_bytes()[: len(inner) + 99])
    with pytest.raises(ArchiveError, match="cut off"):
        read_index(path)


def test_a_directory_is_read_only_where_it_can_be_used(tmp_path, monkeypatch):
    end = zip_directory._END.pack(b"PK\5\6", 0, 0, 9, MIB // 2, 0, 0)
    path, read, sizes = tmp_path / "a.zip", zip_directory._read, []
    path.write_bytes(b"word" * (MIB // 4) + end * 100 + b"behind")
    monkeypatch.setattr(zip_directory, "_read", lambda *args: (sizes.append(args[2]), read(*args))[1])
    with pytest.raises(ArchiveError, match="another kind"):
        read_index(path)
    assert sum(sizes) < 4 * MIB


def test_braces_in_a_path_stay_in_the_advice(tmp_path):
    path = tmp_path / "{2024}" / "a.zip"
    path.parent.mkdir()
    path.write_bytes(b"words")
    damage = zip_directory._DamageError("wrapped", zip_directory._advise_unpacking(path))
    with pytest.raises(ArchiveError) as caught, zip_directory._explain_damage(path):
        raise damage
    assert f"Unpack it in {path.parent}," in caught.value.advice
