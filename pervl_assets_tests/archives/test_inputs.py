"""Where raw inputs are looked for, and what identifies them."""

import os

import pytest

from pervl_assets.archives.inputs import ArchiveSpec, find_archive, identify, identify_contents
from pervl_assets.core.errors import ArchiveError, MissingInputError
from pervl_assets_tests.core.samples import write_encrypted_zip, write_zip

SPEC = ArchiveSpec(
    name="clips_train",
    title="Clips, train.zip",
    description="",
    file="clips/train.zip",
    folders=("clips/train",),
    homepage="https://clips.example",
    how_to_get="Register there.",
    licence="CC-BY-4.0",
    disk="13 GB",
    password_variable="CLIPS_PASSWORD",
)
MEMBERS = {"train/a.jpg": b"first", "train/sub/b.jpg": b"second"}


def test_a_missing_input_says_where_to_get_it_and_where_to_put_it(tmp_path):
    with pytest.raises(MissingInputError) as caught:
        find_archive(SPEC, tmp_path)
    for part in ("https://clips.example", "Register there.", "CC-BY-4.0", "13 GB", str(tmp_path / "clips/train.zip")):
        assert part in str(caught.value)


def test_names_beside_a_missing_input_are_shown(tmp_path):
    (tmp_path / "clips/train.zip").mkdir(parents=True)
    (tmp_path / "clips/train(1).zip").touch()
    with pytest.raises(MissingInputError) as caught:
        find_archive(SPEC, tmp_path)
    assert caught.value.details[-1] == f"in {tmp_path / 'clips'}: train(1).zip, train.zip"


@pytest.mark.parametrize("call", ["is_file", "is_dir"])
def test_a_folder_that_this_user_may_not_enter_is_named(tmp_path, monkeypatch, call):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(f"pathlib.Path.{call}", refuse)
    with pytest.raises(ArchiveError, match=r"clips/train.* cannot be read: Permission denied") as caught:
        find_archive(SPEC, tmp_path)
    assert "Allow this user to read" in caught.value.advice


def test_the_archive_comes_before_the_folder(tmp_path):
    write_zip(tmp_path / "clips/train.zip", MEMBERS)
    (tmp_path / "clips/train").mkdir()
    found = find_archive(SPEC, tmp_path)
    assert (found.path, found.prefix, found.card.kind) == (tmp_path / "clips/train.zip", "", "zip")
    assert found.password_variable == "CLIPS_PASSWORD"


def test_an_unzipped_folder_stands_for_the_archive(tmp_path):
    (tmp_path / "clips/train/sub").mkdir(parents=True)
    (tmp_path / "clips/train/a.jpg").write_bytes(b"first")
    (tmp_path / "clips/train/sub/b.jpg").write_bytes(b"second")
    found = find_archive(SPEC, tmp_path)
    assert (found.path, found.prefix) == (tmp_path / "clips/train", "train/")
    assert (found.card.kind, found.card.members, found.card.bytes) == ("folder", 2, 11)


def test_names_that_are_not_utf8_do_no_harm_in_a_folder(tmp_path):
    folder = tmp_path / "clips/train"
    folder.mkdir(parents=True)
    for name in (b"a.jpg", b"caf\xe9.jpg", b"caf\xe9.csv"):
        (folder / os.fsdecode(name)).write_bytes(b"one")
    assert find_archive(SPEC, tmp_path).card.members == 3
    assert identify_contents(folder).members == 1


def test_folders_with_the_names_of_texts_are_no_texts(tmp_path):
    (tmp_path / "a.csv").mkdir()
    assert identify_contents(tmp_path).members == 0


def test_a_broken_archive_is_an_error_even_beside_a_folder(tmp_path):
    (tmp_path / "clips/train").mkdir(parents=True)
    (tmp_path / "clips/train.zip").write_bytes(b"PK\3\4 half a download")
    with pytest.raises(ArchiveError, match="not a whole zip"):
        find_archive(SPEC, tmp_path)


def test_cards_tell_archives_apart(tmp_path):
    card = identify(write_zip(tmp_path / "a.zip", MEMBERS))
    assert card == identify(write_zip(tmp_path / "copy.zip", MEMBERS))
    assert (card.members, card.encrypted) == (2, False)
    assert card.sha256 != identify(write_zip(tmp_path / "b.zip", {**MEMBERS, "train/a.jpg": b"First"})).sha256
    assert card.sha256 != identify(write_zip(tmp_path / "c.zip", {"train/c.jpg": b"first"})).sha256
    assert identify(write_encrypted_zip(tmp_path / "d.zip", MEMBERS, "x")).encrypted


def test_the_card_of_a_folder_changes_with_its_files(tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    (folder / "a").write_bytes(b"1")
    card = identify(folder)
    assert identify(folder) == card
    os.utime(folder / "a", ns=(1, 1))
    touched = identify(folder)
    assert touched.sha256 != card.sha256
    (folder / "b").write_bytes(b"2")
    assert identify(folder).members == 2


def test_links_in_a_folder_are_followed_but_not_in_circles(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/a").write_bytes(b"1")
    (tmp_path / "train").mkdir()
    (tmp_path / "train/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "train/circle").symlink_to(tmp_path / "train")
    assert identify(tmp_path / "train").members == 1


def test_a_single_file_is_identified_by_its_bytes(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one")
    card = identify(tmp_path / "a.txt")
    assert (card.kind, card.bytes, card.members, len(card.sha256)) == ("file", 3, 1, 64)
    (tmp_path / "a.txt").write_bytes(b"two")
    assert identify(tmp_path / "a.txt").sha256 != card.sha256
