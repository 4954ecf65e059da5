"""Which ranges are requested, and that each is received once, by whichever process needs it first."""

import errno
import gc
import os
import platform
import random
import zipfile
import zlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pervl_assets.archives import inputs, sparse_copies, zip_index
from pervl_assets.archives.inputs import ArchiveSpec, find_archive, identify, locate_local
from pervl_assets.archives.members import open_members
from pervl_assets.archives.sparse_copies import plan_ranges
from pervl_assets.core.errors import AddressError, ArchiveError, MissingInputError, WriteError
from pervl_assets.core.workers import map_in_processes
from pervl_assets_tests.archives.range_server import serve_ranges
from pervl_assets_tests.core.samples import write_encrypted_zip, write_zip

SPEC = ArchiveSpec("clips", "Clips", "", "clips/train.zip", "", "", "", "")
GAP, LONGEST = sparse_copies._LARGEST_GAP, sparse_copies._LONGEST


def measure(ranges):
    return int((ranges[:, 1] - ranges[:, 0]).sum())


@given(st.lists(st.tuples(st.integers(0, 3 * GAP), st.integers(1, LONGEST)), max_size=60), st.randoms())
def test_every_extent_is_in_one_range_and_little_is_received_in_vain(parts, rng):
    at, extents = 0, []
    for gap, size in parts:
        extents.append((at + gap, at + gap + size))
        at += gap + size
    rng.shuffle(extents)
    needed = np.array(extents, np.int64).reshape(-1, 2)
    ranges = plan_ranges(needed)
    assert (ranges[1:, 0] >= ranges[:-1, 1]).all()
    for start, end in extents:
        assert ((ranges[:, 0] <= start) & (end <= ranges[:, 1])).sum() == 1
    assert measure(ranges) <= 1.5 * measure(needed)
    assert all(end - start <= LONGEST or [start, end] in needed.tolist() for start, end in ranges.tolist())
    starts, ends = np.sort(needed[:, 0]), np.sort(needed[:, 1])
    assert len(ranges) >= 1 + (starts[1:] - ends[:-1] > GAP).sum() if len(ranges) else not extents


def test_an_archive_that_is_needed_whole_is_received_in_large_ranges():
    edges = np.arange(0, 83_000 * 160_000, 160_000, np.int64)
    ranges = plan_ranges(np.stack([edges, edges + 160_000], 1))
    assert measure(ranges) == 83_000 * 160_000
    assert len(ranges) < 1_700


def draw_video_archive(seed):
    """Return the extents of 201,000 members as in YouTube-VOS, and those of the 8,258 that PerVL names.

    Frames and masks are in two folders, by scene. Of 270 scenes about 15 frames each are needed, in two or three runs.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.integers(20, 38, 3_471)
    needed = np.zeros(lengths.sum(), bool)
    firsts = np.append(0, lengths.cumsum()[:-1])
    for scene in rng.choice(len(lengths), 270, replace=False).tolist():
        length, first = int(lengths[scene]), int(firsts[scene])
        runs = rng.choice([1, 2, 3, 4], p=[0.3, 0.25, 0.25, 0.2])
        for edge in np.sort(rng.choice(length, runs, replace=False)).tolist():
            needed[first + edge : first + min(edge + int(rng.geometric(1 / 8)), length)] = True
    masks, frames = rng.integers(5_000, 10_000, len(needed)), rng.integers(80_000, 150_000, len(needed))
    ends = np.concatenate([masks, frames]).cumsum() + 70 * np.arange(1, 2 * len(needed) + 1)
    return np.stack([np.append(0, ends[:-1]), ends], 1), np.concatenate([needed, needed])


@pytest.mark.parametrize("seed", range(3))
def test_scenes_of_a_video_archive_are_few_requests_and_little_waste(seed):
    extents, needed = draw_video_archive(seed)
    assert 190_000 < len(extents) < 210_000
    assert 6_000 < needed.sum() < 10_000
    ranges = plan_ranges(extents[needed])
    assert len(ranges) <= 1_000
    assert measure(ranges) <= 1.6 * measure(extents[needed])
    assert measure(ranges) < 0.1 * extents[-1, 1]


MEMBERS = {f"train/{number:04d}.jpg": random.Random(number).randbytes(3_000) for number in range(200)}
NEEDED = [name for number, name in enumerate(MEMBERS) if number % 20 < 10]


@pytest.fixture
def server(monkeypatch):
    with serve_ranges(monkeypatch) as server:
        yield server


def serve_zip(server, tmp_path, write=write_zip, *more, scheme="s3"):
    server.files["clips/train.zip"] = write(tmp_path / "train.zip", MEMBERS, *more).read_bytes()
    return find(server, tmp_path, scheme)


def find(server, tmp_path, scheme="s3"):
    return find_archive(SPEC, tmp_path / "data", server.root(scheme))


def list_copies(tmp_path):
    return [*(tmp_path / "data").rglob(".*")]


def test_processes_receive_every_range_once(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sparse_copies, "_LARGEST_GAP", 20_000)
    archive = serve_zip(server, tmp_path)
    with open_members(archive) as members:
        chosen = members.select(NEEDED)
        server.requests.clear()
        read = dict(zip(NEEDED, map_in_processes(chosen.read, NEEDED, 2), strict=True))
        assert read == {name: MEMBERS[name] for name in NEEDED}
        assert Counter(server.requests).most_common(1)[0][1] == 1
        assert len(server.requests) == len(chosen._get_copy()._ranges) == 10
        assert len(list_copies(tmp_path)) == 1
        del chosen
    gc.collect()
    assert list_copies(tmp_path) == []


def test_what_a_killed_process_left_is_removed(server, tmp_path):
    archive = serve_zip(server, tmp_path)
    left = tmp_path / f"data/assets/raw/.7.train.zip.partial-{platform.node()}-{2**22 + 1}"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.touch()
    with open_members(archive) as members:
        assert members.read(NEEDED[0]) == MEMBERS[NEEDED[0]]
        (copy,) = list_copies(tmp_path)
        assert copy.name.endswith(f"train.zip.partial-{platform.node()}-{os.getpid()}")


@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_an_archive_at_an_address_has_the_identity_of_its_file(server, tmp_path, scheme):
    archive = serve_zip(server, tmp_path, scheme=scheme)
    card, local = archive.card, identify(tmp_path / "train.zip")
    assert (card.bytes, card.members, card.sha256) == (local.bytes, local.members, local.sha256)
    assert card.etag
    assert str(archive.path) == f"{server.root(scheme)}/clips/train.zip"
    server.requests.clear()
    zip_index._recent.clear()
    with open_members(archive) as members:
        assert len(members.names) == 200
        assert len(server.requests) == 1
        assert members.read("train/0000.jpg") == MEMBERS["train/0000.jpg"]
        assert len(server.requests) == 2


def test_nothing_is_received_of_what_is_not_read(server, tmp_path):
    with open_members(serve_zip(server, tmp_path)) as members:
        server.requests.clear()
        assert members.select(NEEDED).crc32(NEEDED[0]) == zlib.crc32(MEMBERS[NEEDED[0]])
        assert server.requests == []


def test_local_headers_may_be_longer_than_the_directory_says(server, tmp_path):
    with zipfile.ZipFile(tmp_path / "odd.zip", "w") as archive:
        for name, data in MEMBERS.items():
            info = zipfile.ZipInfo(name)
            info.extra = b"\xfe\xca" + (40_000).to_bytes(2, "little") + bytes(40_000)
            archive.writestr(info, data)
            info.extra = b""  # the directory is written from it
    server.files["clips/train.zip"] = (tmp_path / "odd.zip").read_bytes()
    with open_members(find(server, tmp_path)) as members, members.select([NEEDED[0], NEEDED[-1]]) as chosen:
        assert chosen.read(NEEDED[0]) == MEMBERS[NEEDED[0]]
        assert chosen.read(NEEDED[-1]) == MEMBERS[NEEDED[-1]]


def test_encrypted_members_are_read(server, tmp_path):
    archive = serve_zip(server, tmp_path, write_encrypted_zip, "geheim")
    with open_members(archive, "geheim") as members, members.select(NEEDED) as chosen:
        chosen.check_password()
        assert chosen.read(NEEDED[3]) == MEMBERS[NEEDED[3]]


def test_an_archive_that_changes_is_noticed_when_it_is_opened_and_under_way(server, tmp_path):
    archive = serve_zip(server, tmp_path)
    with open_members(archive) as members, members.select(NEEDED) as chosen:
        assert chosen.read(NEEDED[0]) == MEMBERS[NEEDED[0]]
        server.files["clips/train.zip"] += b"more"
        with members.select(NEEDED[50:]) as later, pytest.raises(ArchiveError, match="changed while it was read"):
            later.read(NEEDED[50])
        assert chosen.read(NEEDED[0]) == MEMBERS[NEEDED[0]]
    with pytest.raises(ArchiveError, match="has changed since it was identified"):
        open_members(archive)
    assert find(server, tmp_path).card.sha256 == archive.card.sha256
    del server.files["clips/train.zip"]
    with pytest.raises(MissingInputError, match=r"s3://pervl/clips/train\.zip"):
        open_members(archive)
    with pytest.raises(MissingInputError, match="Looked for s3://pervl/clips") as caught:
        find(server, tmp_path)
    assert "Put it at s3://pervl/clips/train.zip" in str(caught.value)


def test_a_server_that_is_gone_is_an_error_and_the_next_try_goes_on(server, tmp_path, monkeypatch):
    monkeypatch.setattr(sparse_copies, "_LARGEST_GAP", 20_000)
    with open_members(serve_zip(server, tmp_path)) as members, members.select(NEEDED) as chosen:
        chosen.read(NEEDED[0])
        server.mode = 503
        assert chosen.read(NEEDED[1]) == MEMBERS[NEEDED[1]]
        with pytest.raises(AddressError, match="503"):
            chosen.read(NEEDED[20])
        server.mode = ""
        assert [chosen.read(name) for name in NEEDED] == [MEMBERS[name] for name in NEEDED]


def test_a_full_disk_is_a_fault_of_the_copy_and_not_of_the_bucket(server, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with open_members(serve_zip(server, tmp_path)) as members, members.select(NEEDED) as chosen:
        monkeypatch.setattr("pervl_assets.archives.sparse_copies.os.pwrite", refuse)
        with pytest.raises(WriteError, match="the disk is full") as caught:
            chosen.read(NEEDED[0])
    assert "s3://" not in str(caught.value)


def test_what_is_no_zip_is_named(server, tmp_path):
    server.files["clips/train.zip"] = b"<!DOCTYPE html>" + bytes(100)
    with pytest.raises(ArchiveError, match=r"s3://pervl/clips/train\.zip is not a zip archive: it is a web page"):
        find(server, tmp_path)
    server.files["clips/train.zip"] = write_zip(tmp_path / "a.zip", MEMBERS).read_bytes()[:-100]
    with pytest.raises(ArchiveError, match="not a whole zip"):
        find(server, tmp_path)


def test_a_text_file_is_copied_once_a_version(server, tmp_path):
    spec = replace(SPEC, name="names", file="names.csv")
    server.files["names.csv"] = b"a,b\n" * 1000
    found = find_archive(spec, tmp_path / "data", server.root("s3"))
    server.requests.clear()
    assert locate_local(found).read_bytes() == b"a,b\n" * 1000
    assert server.requests == []
    locate_local(found).write_bytes(b"damaged")
    assert locate_local(found).read_bytes() == b"a,b\n" * 1000
    server.files["names.csv"] = b"c,d\n"
    assert find_archive(spec, tmp_path / "data", server.root("s3")).card.bytes == 4


def test_a_huge_text_file_is_refused(server, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "_LARGEST_COPY", 10)
    server.files["names.csv"] = b"a,b\n" * 1000
    with pytest.raises(ArchiveError, match="4,000 bytes, too many"):
        find_archive(replace(SPEC, file="names.csv"), tmp_path / "data", server.root("s3"))
    assert server.sent == 0
