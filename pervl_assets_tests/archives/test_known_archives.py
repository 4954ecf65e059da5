"""Archives compared with the official ones by their directories alone."""

import re
import shutil
import struct
import time
import zipfile

import pytest

from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.archives.known_archives import inspect_archive
from pervl_assets.archives.official_files import KnownMembers, load_manifest
from pervl_assets.archives.zip_index import read_index
from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.benchmarks.benchmark import name_members
from pervl_assets.core.errors import ArchiveError
from pervl_assets.defs.resources import ANNOTATIONS
from pervl_assets_tests.core.samples import write_encrypted_zip

MEMBERS = {f"train/image/{number:06}.jpg": b"%d" % number for number in range(5)} | {"train/annos/1.json": b"{}"}
IMAGES = sorted(MEMBERS)[1:]
KNOWN = [KnownMembers(r"train/image/[0-9]{6}\.jpg", named=2, count=5)]


@pytest.fixture
def archive(tmp_path):
    path = write_encrypted_zip(tmp_path / "train.zip", MEMBERS, "geheim")
    return RawArchive(path, identify(path))


def test_an_archive_with_all_members_agrees_without_its_password(archive):
    report = inspect_archive(archive, KNOWN, IMAGES[:2])
    assert (report.needed, report.missing, report.differs) == (2, (), False)
    assert report.counts.rows() == [(KNOWN[0].pattern, 5, 5, 2, 2)]
    assert "It holds all 2 members" in report.text
    assert "No hash of the official archive is recorded" in report.text


def test_other_counts_than_the_official_ones_differ(archive):
    report = inspect_archive(archive, [KnownMembers(KNOWN[0].pattern, 2, 191961)], IMAGES)
    assert report.differs
    assert "It holds 5 members like" in report.text
    assert report.text.endswith("the official one 191,961.")


def test_missing_members_are_counted_and_named(archive):
    report = inspect_archive(archive, KNOWN, [*IMAGES, "train/image/000009.jpg", "train/image/000008.jpg"])
    assert report.missing == ("train/image/000008.jpg", "train/image/000009.jpg")
    assert "It does not hold 2 of the 7 members that the annotations name: train/image/000008.jpg, " in report.text


@pytest.mark.parametrize("content", [b"<html>", None])
def test_damaged_archives_are_refused(archive, content):
    archive.path.write_bytes(archive.path.read_bytes()[:-30] if content is None else content)
    with pytest.raises(ArchiveError, match=r"not a (whole )?zip"):
        inspect_archive(archive, KNOWN, IMAGES)


def test_a_folder_is_compared_by_its_names(tmp_path):
    for name, data in MEMBERS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    folder = RawArchive(tmp_path / "train", identify(tmp_path / "train"), "train/")
    report = inspect_archive(folder, KNOWN, IMAGES)
    assert (report.missing, report.differs, report.counts["found"][0]) == ((), False, 5)
    shutil.rmtree(tmp_path / "train/image")
    assert inspect_archive(folder, KNOWN, IMAGES).missing == tuple(IMAGES)


def test_the_manifest_knows_what_the_official_annotations_name(shared):
    known = load_manifest(ANNOTATIONS / "manifest.yaml").archives
    for benchmark in find_benchmarks():
        for spec in benchmark.archives:
            needed = name_members(benchmark, spec.name, shared / "data/annotations" / benchmark.name)
            kinds = known[spec.name]
            assert [sum(bool(re.fullmatch(kind.pattern, name)) for name in needed) for kind in kinds] == [
                kind.named for kind in kinds
            ]
            assert sum(kind.named for kind in kinds) == len(needed)
    assert known["deep_fashion2_train"][0].count == 191_961
    assert known["coco_train2014"][0].count == 82_783


def write_sparse_zip(path, count, stored):
    """Write an encrypted zip64 of `count` members whose bytes are holes in the file."""
    directory, place = bytearray(), 0
    with path.open("wb") as file:
        for number in range(count):
            name = b"train/image/%06d.jpg" % (number + 1)
            common = struct.pack("<HHHHHIIIH", 45, 1, 0, 0, 0x4EC1, number, stored, stored - 12, len(name))
            file.seek(place)
            file.write(b"PK\3\4" + common + b"\0\0" + name)
            extra = struct.pack("<HHQ", 1, 8, place)
            directory += (
                b"PK\1\2\55\0" + common + struct.pack("<HHHHII", len(extra), 0, 0, 0, 0, 0xFFFFFFFF) + name + extra
            )
            place += 30 + len(name) + stored
        file.seek(place)
        end = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(directory), place)
        end += struct.pack("<4sIQI", b"PK\6\7", 0, place + len(directory), 1)
        end += struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
        file.write(directory + end)


def test_an_archive_of_gigabytes_takes_a_moment(tmp_path):
    path = tmp_path / "train.zip"
    write_sparse_zip(path, 20_000, 300_000)
    assert path.stat().st_size > 6e9
    needed = [f"train/image/{number:06}.jpg" for number in range(1, 20_000, 11)]
    start = time.process_time()
    archive = RawArchive(path, identify(path))
    report = inspect_archive(archive, KNOWN, needed)
    # Of 200,000 members in 10 GB: 0.5 s. A tenth of them, with much room for a slow machine.
    assert time.process_time() - start < 1
    assert (report.missing, report.counts["found"][0]) == ((), 20_000)
    with zipfile.ZipFile(path) as archive:
        expected = {
            info.filename: (info.header_offset, info.compress_size, info.file_size) for info in archive.infolist()
        }
    assert {name: entry[:3] for name, entry in read_index(path).entries.items()} == expected
