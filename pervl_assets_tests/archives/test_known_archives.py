"""What an archive is, by its directory alone."""

import re
import shutil
import struct
import time
import zipfile

import pytest

from pervl_assets.archives.inputs import identify
from pervl_assets.archives.known_archives import (
    KnownArchive,
    KnownMembers,
    MemberCount,
    inspect_archive,
    load_known_archives,
)
from pervl_assets.archives.zip_directory import read_directory
from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.benchmarks.benchmark import name_members
from pervl_assets.core.errors import AnnotationError, ArchiveError
from pervl_assets.defs.resources import ANNOTATIONS
from pervl_assets_tests.core.samples import write_encrypted_zip

MEMBERS = {f"train/image/{number:06}.jpg": b"%d" % number for number in range(5)} | {"train/annos/1.json": b"{}"}
IMAGES = sorted(MEMBERS)[1:]
KNOWN = KnownArchive((KnownMembers(r"train/image/[0-9]{6}\.jpg", named=2, count=5),))


@pytest.fixture
def archive(tmp_path):
    return write_encrypted_zip(tmp_path / "train.zip", MEMBERS, "geheim")


def test_the_official_archive_is_known_by_its_directory_without_the_password(archive):
    verdict = inspect_archive(archive, KnownArchive(KNOWN.members, identify(archive).sha256), IMAGES[:2])
    assert (verdict.state, verdict.needed, verdict.lacking) == ("official", 2, ())
    assert verdict.counts == (MemberCount(KNOWN.members[0].pattern, 5, 5, 2, 2),)
    assert "all 2 members" in verdict.text


def test_the_same_names_with_other_contents_are_a_re_release(archive):
    known = KnownArchive(KNOWN.members, identify(archive).sha256)
    write_encrypted_zip(archive, {**MEMBERS, IMAGES[0]: b"better"}, "geheim")
    verdict = inspect_archive(archive, known, IMAGES[:2])
    assert (verdict.state, verdict.lacking) == ("re-released", ())
    assert "same names, other contents" in verdict.text


def test_an_archive_that_cannot_be_compared_is_unknown_and_differences_are_told(archive):
    verdict = inspect_archive(archive, KNOWN, IMAGES[:2])
    assert verdict.state == "unknown"
    assert "no official directory is recorded" in verdict.text
    assert "official one" not in verdict.text
    more = KnownArchive((KnownMembers(KNOWN.members[0].pattern, 2, 191961),))
    assert "It holds 5 members like" in (text := inspect_archive(archive, more, IMAGES).text)
    assert text.endswith("the official one 191,961.")


def test_members_that_are_not_there_are_counted_and_named_even_of_the_official_archive(archive):
    needed = [*IMAGES, "train/image/000009.jpg", "train/image/000008.jpg"]
    verdict = inspect_archive(archive, KnownArchive(KNOWN.members, identify(archive).sha256), needed)
    assert verdict.state == "lacking"
    assert verdict.lacking == ("train/image/000008.jpg", "train/image/000009.jpg")
    assert "lacks 2 of the 7 members that the annotations name: train/image/000008.jpg, " in verdict.text


@pytest.mark.parametrize("left", [-1, -30, 100])
def test_a_download_that_was_cut_short_is_truncated(archive, left):
    archive.write_bytes(archive.read_bytes()[:left])
    verdict = inspect_archive(archive, KNOWN, IMAGES)
    assert (verdict.state, verdict.needed, verdict.counts) == ("truncated", 5, ())
    assert "cut off after" in verdict.text


def test_what_is_no_zip_at_all_gets_no_verdict(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"<html>")
    with pytest.raises(ArchiveError):
        inspect_archive(tmp_path / "a.zip", KNOWN)


def test_a_folder_is_judged_by_its_names(tmp_path, archive):
    for name, data in MEMBERS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    verdict = inspect_archive(tmp_path / "train", KnownArchive(KNOWN.members, "0" * 64), IMAGES, "train/")
    assert (verdict.state, verdict.counts[0].found) == ("unknown", 5)
    assert "only its names" in verdict.text
    shutil.rmtree(tmp_path / "train/image")
    assert inspect_archive(tmp_path / "train", KNOWN, IMAGES, "train/").lacking == tuple(IMAGES)


def test_the_manifest_knows_what_the_official_annotations_name(shared):
    known = load_known_archives(ANNOTATIONS / "manifest.yaml")
    for benchmark in find_benchmarks():
        for spec in benchmark.archives:
            needed = name_members(benchmark, spec.name, shared / "data/annotations" / benchmark.name)
            kinds = known[spec.name].members
            assert [sum(bool(re.fullmatch(kind.pattern, name)) for name in needed) for kind in kinds] == [
                kind.named for kind in kinds
            ]
            assert sum(kind.named for kind in kinds) == len(needed)
    assert known["deep_fashion2_train"].members[0].count == 191_961
    assert known["coco_train2014"].members[0].count == 82_783


@pytest.mark.parametrize(
    "text", ["files: []", "archives: [1]", "archives: {a: {members: [{size: 3}]}}", "archives: {a: {}}"]
)
def test_a_manifest_without_that_knowledge_is_refused(tmp_path, text):
    (tmp_path / "manifest.yaml").write_text(text)
    with pytest.raises(AnnotationError, match="does not say"):
        load_known_archives(tmp_path / "manifest.yaml")


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


def test_an_archive_of_gigabytes_is_judged_in_a_moment(tmp_path):
    path = tmp_path / "train.zip"
    write_sparse_zip(path, 20_000, 300_000)
    assert path.stat().st_size > 6e9
    needed = [f"train/image/{number:06}.jpg" for number in range(1, 20_000, 11)]
    start = time.process_time()
    verdict = inspect_archive(path, KNOWN, needed)
    # Of 200,000 members in 10 GB: 0.5 s. A tenth of them, with much room for a slow machine.
    assert time.process_time() - start < 1
    assert (verdict.state, verdict.counts[0].found) == ("unknown", 20_000)
    with zipfile.ZipFile(path) as archive:
        expected = {
            info.filename: (info.header_offset, info.compress_size, info.file_size) for info in archive.infolist()
        }
    assert {name: entry[:3] for name, entry in read_directory(path).items()} == expected
