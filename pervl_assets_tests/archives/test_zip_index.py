"""A zip's members are parsed once and kept; a stale or damaged index is made again."""

import shutil

import pytest

from pervl_assets.archives import zip_index
from pervl_assets.archives.inputs import ArchiveSpec, find_archive, identify
from pervl_assets.archives.members import open_members
from pervl_assets.archives.zip_index import read_index
from pervl_assets.core.errors import ArchiveError
from pervl_assets_tests.core.samples import write_encrypted_zip, write_zip

MEMBERS = {"train/a.jpg": b"first" * 9, "train/b.jpg": b"second"}


@pytest.fixture
def parsed(monkeypatch):
    """Count how often a directory is parsed; nothing is kept in memory."""
    monkeypatch.setattr(zip_index, "_recent", {})
    paths, check = [], zip_index.check_directory

    def count(path, *directory):
        paths.append(path)
        return check(path, *directory)

    monkeypatch.setattr(zip_index, "check_directory", count)
    return paths


def forget():
    zip_index._recent.clear()


def test_a_directory_is_parsed_and_written_once_for_all_readers(tmp_path, parsed, monkeypatch):
    written, write = [], zip_index.write_parquet
    monkeypatch.setattr(zip_index, "write_parquet", lambda *args: written.append(write(*args)))
    spec = ArchiveSpec("clips", "", "", "clips/train.zip", "", "", "", "")
    write_encrypted_zip(tmp_path / spec.file, MEMBERS, "geheim")
    archive = find_archive(spec, tmp_path)
    assert archive.index == tmp_path / "assets/raw/clips.members.parquet"
    for _ in range(2):
        with open_members(archive, "geheim") as members:
            assert {name: members.read(name) for name in members.names} == MEMBERS
        assert identify(archive.path, archive.index) == archive.card
        forget()
    assert len(parsed) == len(written) == 1
    assert identify(archive.path) == archive.card
    assert len(parsed) == 2


def test_an_index_of_another_archive_is_made_again(tmp_path, parsed):
    path, store = write_zip(tmp_path / "a.zip", MEMBERS), tmp_path / "a.members.parquet"
    read_index(path, store)
    write_zip(path, {**MEMBERS, "train/c.jpg": b"third"})
    forget()
    assert set(read_index(path, store).entries) == {*MEMBERS, "train/c.jpg"}
    forget()
    assert len(read_index(path, store).entries) == 3
    assert len(parsed) == 2


def test_a_copied_or_moved_archive_keeps_its_index(tmp_path, parsed):
    path, store = write_zip(tmp_path / "a.zip", MEMBERS), tmp_path / "a.members.parquet"
    entries = read_index(path, store).entries
    kept = store.read_bytes()
    forget()
    assert read_index(shutil.copyfile(path, tmp_path / "b.zip"), store).entries == entries
    assert (len(parsed), store.read_bytes()) == (1, kept)


@pytest.mark.parametrize("damage", ["cut", "other bytes", "another file", "other values"])
def test_a_damaged_index_is_made_again(tmp_path, parsed, damage):
    path, store = write_zip(tmp_path / "a.zip", MEMBERS), tmp_path / "a.members.parquet"
    entries = read_index(path, store).entries
    whole = store.read_bytes()
    if damage == "other values":
        index = read_index(path, store)
        metadata = zip_index.pl.read_parquet_metadata(store)
        wrong = index.frame.with_columns(offset=index.frame["offset"] + 1)
        wrong.write_parquet(store, metadata={name: metadata[name] for name in ("key", "sha256")})
    else:
        damaged = {"cut": whole[:-9], "other bytes": whole[:40] + b"\0" * 40 + whole[80:], "another file": b"{}"}
        store.write_bytes(damaged[damage])
    forget()
    assert read_index(path, store).entries == entries
    assert store.read_bytes() == whole
    assert len(parsed) == 2


def test_an_unsafe_archive_leaves_no_index(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"../a": b""})
    with pytest.raises(ArchiveError, match="1 unsafe member"):
        read_index(path, tmp_path / "a.members.parquet")
    assert [found.name for found in tmp_path.iterdir()] == ["a.zip"]


def test_a_read_only_data_folder_costs_time_and_nothing_else(tmp_path):
    path = write_zip(tmp_path / "a.zip", MEMBERS)
    (tmp_path / "assets").write_bytes(b"a file where a folder is needed")
    assert set(read_index(path, tmp_path / "assets/raw/a.members.parquet").entries) == set(MEMBERS)


def test_entries_of_very_many_members_are_the_same(tmp_path, monkeypatch):
    names = ["plumless", "buckeroo", *(f"train/{number}.jpg" for number in range(500))]  # the first two have one CRC-32
    frame = read_index(write_zip(tmp_path / "a.zip", dict.fromkeys(names, b"mug"))).frame
    few = zip_index.ZipIndex(frame, "").entries
    monkeypatch.setattr(zip_index, "_MOST_ENTRIES", 100)
    monkeypatch.setattr(zip_index, "_ROWS", 7)
    many = zip_index.ZipIndex(frame, "").entries
    assert not isinstance(many, dict)
    assert list(many.items()) == list(few.items())
    assert many["buckeroo"] != many["plumless"]
    assert "train/500.jpg" not in many
    assert "train/\udc80" not in many


def test_hashes_do_not_depend_on_the_rows_at_a_time(tmp_path, monkeypatch):
    index = read_index(write_zip(tmp_path / "a.zip", {f"{number}.jpg": b"mug" for number in range(20)}))
    hashes = zip_index._identify(index.frame).sha256, zip_index._hash_columns(index.frame)
    monkeypatch.setattr(zip_index, "_ROWS", 3)
    assert (zip_index._identify(index.frame).sha256, zip_index._hash_columns(index.frame)) == hashes
