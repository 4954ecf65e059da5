"""Hostile and damaged archives, one a row: each ends in a clear error or quarantine, and writes nothing elsewhere."""

import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.archives.members import open_members
from pervl_assets.core.errors import ArchiveError, PervlError
from pervl_assets.testing.hostile import (
    add_absolute_path,
    add_bomb,
    add_case_twin,
    add_duplicate,
    add_member,
    add_path_traversal,
    add_symlink,
    damage_member,
    truncate,
)
from pervl_assets.trees.build import build_tree, commit_tree
from pervl_assets.trees.ledger import FolderTree
from pervl_assets_tests.core.samples import opens_by_check_byte, photograph, plan_copies, write_encrypted_zip, write_zip

MEMBERS = {"train/a.jpg": b"first" * 40, "train/b.jpg": b"second" * 30}
PASSWORD = "geheim"
TREE = "data/tree"

# Places of fields in the local header of a member and in its entry of the directory.
FLAGS, METHOD, CRC, STORED, SIZE = ((6, 8), (8, 10), (14, 16), (18, 20), (22, 24))
OFFSET = 42
LOCAL, ENTRY = (b"PK\3\4", 30), (b"PK\1\2", 46)


def build(path: Path, password: str = PASSWORD) -> FolderTree:
    with open_members(RawArchive(path, identify(path)), password) as members:
        return commit_tree(build_tree(plan_copies(list(MEMBERS)), members, path.parent / TREE))


def find_header(data: bytes, name: str, kind: tuple[bytes, int]) -> int:
    magic, size = kind
    place = data.index(magic)
    while data[place + size : place + size + len(name)] != name.encode():
        place = data.index(magic, place + 1)
    return place


def patch(path: Path, name: str, form: str, value: int, *, local: int | None = None, entry: int | None = None) -> None:
    """Overwrite a field of a member's local header, of its entry in the directory, or of both."""
    data = bytearray(path.read_bytes())
    for kind, place in ((LOCAL, local), (ENTRY, entry)):
        if place is not None:
            struct.pack_into(form, data, find_header(data, name, kind) + place, value)
    path.write_bytes(data)


def corrupt(change: Callable[..., Path], **options: object) -> Callable[[Path], object]:
    """Corrupt a whole archive with a function that users have, too."""
    return lambda path: change(write_zip(path, MEMBERS), **options)


def add_named(raw: bytes) -> Callable[[Path], None]:
    """Add a member of that name, which `zipfile` could not write."""
    stand_in = "x" * len(raw)

    def write(path: Path) -> None:
        write_zip(path, {**MEMBERS, stand_in: b"evil"})
        path.write_bytes(path.read_bytes().replace(stand_in.encode(), raw))

    return write


def add_not_utf8(path: Path) -> None:
    add_named(b"train/\xff\xfe.jpg")(path)
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, data.rindex(b"PK\1\2") + FLAGS[1], 0x800)
    path.write_bytes(data)


def hide_bomb(path: Path) -> None:
    write_zip(path, {**MEMBERS, "train/a.jpg": bytes(8 << 20)}, zipfile.ZIP_DEFLATED)
    patch(path, "train/a.jpg", "<I", 1000, local=SIZE[0], entry=SIZE[1])


def add_giant(path: Path) -> None:
    """A stored member of 300 MB, which is a hole in the file."""
    write_zip(path, {**MEMBERS, "giant": b""})
    data = path.read_bytes()
    directory = data.index(b"PK\1\2")
    with path.open("r+b") as file:
        file.seek(directory + 300_000_000)
        file.write(data[directory:-22])
        file.write(data[-22:-6] + struct.pack("<IH", directory + 300_000_000, 0))
        entry = directory + 300_000_000 + find_header(data, "giant", ENTRY) - directory
        file.seek(entry + STORED[1])
        file.write(struct.pack("<II", 300_000_000, 300_000_000))


def damage(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(write_zip(path, MEMBERS).read_bytes()))


def state_other_count(data: bytes) -> bytes:
    return data[:-14] + struct.pack("<HH", 3, 3) + data[-10:]


def fold(path: Path) -> None:
    """Two names for the same bytes."""
    write_zip(path, {**MEMBERS, "train/c.jpg": b"third"})
    patch(path, "train/c.jpg", "<I", path.read_bytes().index(b"PK\3\4", 9), entry=OFFSET)


def quote(path: Path) -> None:
    """A member whose bytes reach over the header of the next, so that the next is in both."""
    write_zip(path, MEMBERS)
    data = path.read_bytes()
    longer = data.index(b"PK\3\4", 9) + 50
    patch(path, "train/a.jpg", "<I", longer, local=STORED[0], entry=STORED[1])


def change(name: str, form: str, value: int, **places: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        write_zip(path, MEMBERS)
        patch(path, name, form, value, **places)

    return write


def rename_locally(path: Path) -> None:
    write_zip(path, MEMBERS)
    path.write_bytes(path.read_bytes().replace(b"train/a.jpg", b"train/c.jpg", 1))


def damage_deflated(path: Path) -> None:
    write_zip(path, {**MEMBERS, "train/a.jpg": bytes(range(256)) * 4}, zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    data[42:60] = bytes(18)
    path.write_bytes(data)


def encrypt_secretly(path: Path) -> None:
    write_encrypted_zip(path, MEMBERS, PASSWORD, deflate=False)
    for name, data in MEMBERS.items():
        for form, value, places in (("<H", 0, FLAGS), ("<I", len(data), STORED)):
            patch(path, name, form, value, entry=places[1])


def claim_encryption(path: Path) -> None:
    write_zip(path, MEMBERS)
    for name in MEMBERS:
        patch(path, name, "<H", 1, local=FLAGS[0], entry=FLAGS[1])


def encrypt_for_unlucky_password(path: Path) -> None:
    """Encrypt so that `PASSWORD` is wrong and passes the one-byte check of every member."""
    for number in range(99_999):
        write_encrypted_zip(path, {"train/a.jpg": MEMBERS["train/a.jpg"]}, f"right{number}", deflate=False)
        header = path.read_bytes()[41:53]
        if opens_by_check_byte(PASSWORD, header, zlib.crc32(MEMBERS["train/a.jpg"]) >> 24):
            return


def write_zip64(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write what a zip of many gigabytes looks like, small."""
    with monkeypatch.context() as patched:
        patched.setattr(zipfile, "ZIP64_LIMIT", 10)
        patched.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
        write_zip(path, MEMBERS)
    assert b"PK\6\6" in path.read_bytes()


def need_zip64_field(path: Path) -> None:
    write_zip(path, MEMBERS)
    patch(path, "train/a.jpg", "<I", 0xFFFFFFFF, entry=OFFSET)


def claim_exabytes(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in MEMBERS.items():
            info = zipfile.ZipInfo(name)
            info.extra = struct.pack("<HHQQQ", 0xAAAA, 24, 1 << 63, 1 << 63, (1 << 64) - 1)
            archive.writestr(info, data)
    data = path.read_bytes()
    directory = data.index(b"PK\1\2")
    path.write_bytes(data[:directory] + data[directory:].replace(b"\xaa\xaa", b"\1\0"))
    for place in (STORED[1], SIZE[1], OFFSET):
        patch(path, "train/b.jpg", "<I", 0xFFFFFFFF, entry=place)


def lose_zip64_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_zip64(path, monkeypatch)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"PK\6\6", b"PK\6\5"))


def hide_end_in_comment(data: bytes) -> bytes:
    """An end record of no members, inside the comment of the real one."""
    inner = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0, 0, 0, 0, 0)
    return data[:-2] + struct.pack("<H", len(inner)) + inner


ERRORS = {
    "climbs out": (corrupt(add_path_traversal), "climbs out of its folder"),
    "climbs out further in": (corrupt(add_member, name="train/../../evil.jpg"), "climbs out of its folder"),
    "absolute": (corrupt(add_absolute_path), "an absolute path"),
    "drive letter": (corrupt(add_member, name="C:/evil.jpg"), "an absolute path"),
    "Windows separators": (corrupt(add_member, name="..\\evil.jpg"), "climbs out of its folder"),
    "symbolic link": (corrupt(add_symlink), "a symbolic link"),
    "twins but for case": (corrupt(add_case_twin), "upper and lower case"),
    "duplicate": (corrupt(add_duplicate), "2 members of this name"),
    "bomb": (corrupt(add_bomb), "inflates"),
    "giant": (add_giant, "inflates 300,000,000 bytes"),
    "folded into itself": (fold, "begins inside"),
    "quoted": (quote, "begins inside"),
    "position outside": (change("train/a.jpg", "<I", 99_999, entry=OFFSET), "a position outside"),
    "AES": (change("train/a.jpg", "<H", 99, local=8, entry=METHOD[1]), "cannot be read here: encrypted with AES"),
    "Deflate64": (change("train/a.jpg", "<H", 9, local=8, entry=METHOD[1]), "compressed with Deflate64"),
    "strong encryption": (change("train/a.jpg", "<H", 0x41, local=6, entry=FLAGS[1]), "strong encryption of PKWARE"),
    "truncated member": (corrupt(truncate, keep=0.1), "cut off after"),
    "truncated directory": (damage(lambda data: data[:-40]), "cut off after"),
    "bytes lost before the directory": (damage(lambda data: data[:40] + data[50:]), "bytes lost"),
    "bytes put inside": (damage(lambda data: data[:40] + b"#!/bin/sh\n" + data[40:]), "bytes were added before it"),
    "damaged entry": (damage(lambda data: data.replace(b"PK\1\2", b"PK\1\3", 1)), "entry 1 of its directory"),
    "other count": (damage(state_other_count), "states 3 members and holds 2"),
    "second end record": (damage(hide_end_in_comment), "directory is not where"),
    "log-in page": (lambda path: path.write_bytes(b"<html>Log in</html>" * 9), "it is a web page"),
    "empty file": (lambda path: path.write_bytes(b""), "it is empty"),
    "zip64 field missing": (need_zip64_field, "the zip64 field of an entry is missing"),
    "zip64 sizes of exabytes": (claim_exabytes, "a position outside"),
    "encryption claimed": (claim_encryption, "does not open"),
    "password that passes one byte": (encrypt_for_unlucky_password, "does not open"),
}

QUARANTINES = {
    "wrong CRC": (corrupt(damage_member, member="train/a.jpg"), "its CRC does not match"),
    "other CRC stated": (change("train/a.jpg", "<I", 7, local=CRC[0], entry=CRC[1]), "its CRC does not match"),
    "damaged compressed bytes": (damage_deflated, r"compressed bytes are damaged|it holds|CRC"),
    "bomb that states a small size": (hide_bomb, "1,001 bytes or more where the directory says 1,000"),
    "larger than stated": (change("train/a.jpg", "<I", 150, entry=SIZE[1]), "200 bytes or more where .* 150"),
    "smaller than stated": (change("train/a.jpg", "<I", 250, entry=SIZE[1]), "200 bytes or more where .* 250"),
    "local header of another name": (rename_locally, "local header does not match"),
    "local header of another method": (change("train/a.jpg", "<H", 8, local=METHOD[0]), "local header does not match"),
    "local header says encrypted": (change("train/a.jpg", "<H", 1, local=FLAGS[0]), "local header does not match"),
    "no local header": (change("train/a.jpg", "<I", 0, local=0), "local header does not match"),
}


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "inside"
    folder.mkdir()
    (tmp_path / "outside.txt").write_bytes(b"not to be touched")
    return folder / "raw.zip"


def list_outside(path: Path) -> dict[str, tuple[int, int]]:
    """Return all files and folders beside the tree, with sizes and times."""
    top = path.parent.parent
    files = (file for file in top.rglob("*") if file.is_file() and path.parent / TREE not in file.parents)
    return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in files}


@pytest.mark.parametrize("case", ERRORS)
def test_an_unsafe_archive_is_a_clear_error_before_any_work(path, case):
    write, words = ERRORS[case]
    write(path)
    before = list_outside(path)
    with pytest.raises(ArchiveError) as caught:
        build(path)
    assert words in str(caught.value)
    assert str(path) in caught.value.problem
    assert "What to do: " in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert not (path.parent / "data").exists()
    assert list_outside(path) == before


@pytest.mark.parametrize("case", QUARANTINES)
def test_a_damaged_member_is_quarantined_and_the_rest_is_built(path, case):
    write, words = QUARANTINES[case]
    write(path)
    before = list_outside(path)
    tree = build(path)
    (reason,) = tree.ledger.filter(status="quarantined")["reason"]
    assert re.search(words, reason)
    assert (tree.written, tree.missing) == (1, 0)
    assert photograph(tree.root).keys() == {"class/train/b.jpg"}
    assert list_outside(path) == before


def test_an_archive_whose_members_are_all_encrypted_in_secret_is_refused(path):
    encrypt_secretly(path)
    with pytest.raises(ArchiveError, match="2 of 2 files of tree cannot be made") as raised:
        build(path)
    assert raised.value.details == tuple(
        f"class/{name}: {name}: its local header does not match the archive's directory" for name in MEMBERS
    )


def test_a_lost_zip64_end_record_is_named(path, monkeypatch):
    lose_zip64_end(path, monkeypatch)
    with pytest.raises(ArchiveError, match="zip64 end record"):
        build(path)


def test_an_honest_zip64_archive_is_read(path, monkeypatch):
    write_zip64(path, monkeypatch)
    assert build(path).written == 2


def test_zip64_sizes_are_found_behind_other_extra_fields(path, monkeypatch):
    other = struct.pack("<HH4s", 0xAAAA, 4, b"else")
    with monkeypatch.context() as patched, zipfile.ZipFile(path, "w") as archive:
        for name, data in MEMBERS.items():
            info = zipfile.ZipInfo(name)
            info.extra = other
            archive.writestr(info, data)
        patched.setattr(zipfile, "ZIP64_LIMIT", 150)  # for the directory, which is written at the end
        archive.close()
    sizes = struct.pack("<HHQQ", 1, 16, 200, 200)
    assert sizes + other in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(sizes + other, other + sizes))
    assert build(path).written == 2


def test_names_in_an_old_code_page_are_no_reason_to_refuse_an_archive(path):
    add_named(b"train/gr\x81n.jpg")(path)
    assert build(path).written == 2


def test_an_archive_of_nothing_is_read_as_one(path):
    write_zip(path, {})
    with pytest.raises(PervlError, match="holds none of the 2 members"):
        build(path)
