"""Members of zips, folders and trees, and passwords."""

import errno
import os
import pickle
from pathlib import Path

import pytest

from pervl_assets.archives import members as members_module
from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.archives.members import MemberError, open_members
from pervl_assets.core.errors import ArchiveError, MissingInputError, PasswordError
from pervl_assets.trees.build import build_tree, commit_tree
from pervl_assets.trees.members import open_tree
from pervl_assets_tests.core.samples import opens_by_check_byte, plan_copies, write_encrypted_zip, write_zip

MEMBERS = {"train/a.jpg": b"first" * 9, "train/sub/b.jpg": b"second" * 9, "train/c.jpg": b"third" * 9}


def find(path, prefix="", password_variable=None):
    return RawArchive(path, identify(path), prefix, password_variable)


@pytest.fixture
def folder(tmp_path):
    for name, data in MEMBERS.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path / "train"


def test_zip_and_folder_are_the_same_source(tmp_path, folder):
    with (
        open_members(find(write_zip(tmp_path / "train.zip", MEMBERS))) as packed,
        open_members(find(folder, "train/")) as loose,
    ):
        for source in (packed, loose):
            assert set(source.names) == set(MEMBERS)
            assert {name: source.read(name) for name in source.names} == MEMBERS
        assert [packed.crc32(name) for name in MEMBERS] == [loose.crc32(name) for name in MEMBERS]


def test_a_selection_can_be_sent_to_another_process(tmp_path, folder):
    for archive in (find(write_zip(tmp_path / "train.zip", MEMBERS)), find(folder, "train/")):
        with open_members(archive) as members:
            members.read("train/a.jpg")
            sent = pickle.loads(pickle.dumps(members.select(["train/a.jpg"])))
            assert set(sent.names) == {"train/a.jpg"}
            assert sent.read("train/a.jpg") == MEMBERS["train/a.jpg"]
            assert sent.crc32("train/a.jpg") == members.crc32("train/a.jpg")
            sent.close()


def test_an_archive_that_changed_since_it_was_identified_is_refused(tmp_path, folder):
    archive = find(write_zip(tmp_path / "train.zip", MEMBERS))
    write_zip(tmp_path / "train.zip", {**MEMBERS, "train/d.jpg": b""})
    with pytest.raises(ArchiveError, match="3 members then, 4 now"):
        open_members(archive)
    (tmp_path / "train.zip").unlink()
    with pytest.raises(MissingInputError, match="gone"):
        open_members(archive)
    loose = find(folder, "train/")
    (folder / "d.jpg").write_bytes(b"")
    with pytest.raises(ArchiveError, match="3 members then, 4 now"):
        open_members(loose)


def test_a_file_that_changes_or_vanishes_meanwhile_ends_the_run(folder):
    with open_members(find(folder, "train/")) as members:
        chosen = members.select(["train/a.jpg", "train/c.jpg"])
        (folder / "a.jpg").unlink()
        (folder / "c.jpg").write_bytes(b"other")
        with pytest.raises(ArchiveError, match=r"a\.jpg cannot be read: No such file"):
            chosen.read("train/a.jpg")
        with pytest.raises(ArchiveError, match=r"c\.jpg was replaced or changed while it was read"):
            chosen.read("train/c.jpg")


def test_a_disk_error_ends_the_run(tmp_path, folder, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for archive in (find(write_zip(tmp_path / "train.zip", MEMBERS)), find(folder, "train/")):
        with open_members(archive) as members, monkeypatch.context() as patch:
            patch.setattr(os, "pread", fail)
            patch.setattr(Path, "read_bytes", fail)
            with pytest.raises(ArchiveError, match="cannot be read: Input/output error"):
                members.read("train/a.jpg")


def test_an_archive_that_is_replaced_while_it_is_read_ends_the_run(tmp_path):
    archive = find(write_zip(tmp_path / "train.zip", MEMBERS))
    with open_members(archive) as members:
        members.read("train/a.jpg")
        sent = pickle.loads(pickle.dumps(members))
        archive.path.write_bytes(b"half a download")
        for reader in (members, sent):
            with pytest.raises(ArchiveError, match="was replaced or changed"):
                reader.read("train/c.jpg")


def test_a_file_that_cannot_be_read_can_still_be_selected(folder, monkeypatch):
    monkeypatch.setattr(members_module, "MAX_MEMBER_BYTES", len(MEMBERS["train/a.jpg"]))
    with open_members(find(folder, "train/")) as members:
        chosen = members.select(MEMBERS)
        assert chosen.read("train/a.jpg") == MEMBERS["train/a.jpg"]
        with pytest.raises(MemberError, match="larger"):
            chosen.read("train/sub/b.jpg")


def test_a_single_file_has_no_members(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one")
    with pytest.raises(ArchiveError, match="single file"):
        open_members(find(tmp_path / "a.txt"))


def test_the_password_is_taken_from_the_environment(tmp_path, monkeypatch):
    archive = find(write_encrypted_zip(tmp_path / "a.zip", MEMBERS, "geheim"), password_variable="CLIPS_PASSWORD")
    monkeypatch.setenv("CLIPS_PASSWORD", "geheim")
    with open_members(archive) as members:
        members.check_password()
        assert members.read("train/a.jpg") == MEMBERS["train/a.jpg"]


@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_password_says_which_variable(tmp_path, monkeypatch, value):
    monkeypatch.delenv("CLIPS_PASSWORD", raising=False)
    if value is not None:
        monkeypatch.setenv("CLIPS_PASSWORD", value)
    archive = find(write_encrypted_zip(tmp_path / "a.zip", MEMBERS, "geheim"), password_variable="CLIPS_PASSWORD")
    with open_members(archive) as members, pytest.raises(PasswordError, match="Set CLIPS_PASSWORD"):
        members.check_password()


def test_a_wrong_password_is_found_and_not_repeated(tmp_path):
    archive = find(write_encrypted_zip(tmp_path / "a.zip", MEMBERS, "geheim"))
    with open_members(archive, "Passwort123") as members, pytest.raises(PasswordError) as caught:
        members.check_password()
    assert "Passwort123" not in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_a_password_that_is_not_utf8_is_an_error_and_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setitem(os.environb, b"CLIPS_PASSWORD", b"geh\xffeim")
    archive = find(write_encrypted_zip(tmp_path / "a.zip", MEMBERS, "geheim"), password_variable="CLIPS_PASSWORD")
    with pytest.raises(PasswordError, match="not UTF-8 text") as caught:
        open_members(archive)
    assert "CLIPS_PASSWORD" in caught.value.advice
    assert "eim" not in str(caught.value)


@pytest.mark.parametrize("deflate", [True, False])
def test_a_wrong_password_that_passes_the_one_byte_check_is_found(tmp_path, deflate):
    path = write_encrypted_zip(tmp_path / "a.zip", {"a": b"only member" * 5}, "geheim", deflate=deflate)
    header = path.read_bytes()[31:43]
    with open_members(find(path), "geheim") as members:
        check = members.crc32("a") >> 24
    passing = next(guess for number in range(9999) if opens_by_check_byte(guess := f"wrong{number}", header, check))
    with open_members(find(path), passing) as members:
        with pytest.raises(MemberError, match=r"CRC|damaged|holds"):
            members.read("a")
        with pytest.raises(PasswordError, match="does not open"):
            members.check_password()


def test_a_damaged_member_does_not_make_a_right_password_wrong(tmp_path):
    path = write_encrypted_zip(tmp_path / "a.zip", {"tiny": b"x", **MEMBERS}, "geheim", deflate=False)
    data = bytearray(path.read_bytes())
    data[30 + len("tiny") + 12] ^= 1
    path.write_bytes(bytes(data))
    with open_members(find(path), "geheim") as members:
        with pytest.raises(MemberError):
            members.read("tiny")
        members.check_password()


def test_an_open_archive_needs_no_password(tmp_path):
    with open_members(find(write_zip(tmp_path / "a.zip", MEMBERS))) as members:
        members.check_password()


def test_a_tree_is_a_source_and_passes_reasons_on(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a.txt": b"one", "b.txt": b"bad"})
    with open_members(find(path)) as members:
        tree = commit_tree(build_tree(plan_copies(["a.txt", "b.txt"]), members, tmp_path / "tree"))
    with open_tree(tree) as source:
        assert set(source.names) == {"class/a.txt", "class/b.txt"}
        assert source.read("class/a.txt") == b"ONE"
        with pytest.raises(MemberError, match="source quarantined: it is bad"):
            source.read("class/b.txt")
        (tree.root / "class/a.txt").write_bytes(b"two")
        with pytest.raises(ArchiveError, match=r"a.txt is not the file that was written there"):
            pickle.loads(pickle.dumps(source.select(["class/a.txt"]))).read("class/a.txt")
        (tree.root / "class/a.txt").unlink()
        with pytest.raises(ArchiveError, match=r"a.txt is missing"):
            source.read("class/a.txt")
