"""The swap, and what a kill in its middle leaves behind."""

import errno
import json
import os
from pathlib import Path

import pytest

from pervl_assets.core.errors import WriteError
from pervl_assets.trees import staging
from pervl_assets.trees.ledger import list_files
from pervl_assets.trees.staging import Staging, exchange


def fill(folder: Path, text: str) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "sub/file.txt").write_text(text)
    return folder


@pytest.fixture(params=["exchange", "two renames"])
def way(request, monkeypatch):
    if request.param == "two renames":
        monkeypatch.setattr(staging, "exchange", lambda *_: False)
    return request.param


def test_the_new_tree_takes_the_old_ones_place(tmp_path, way):
    target = fill(tmp_path / "tree", "old")
    stage = Staging(target)
    fill(stage.folder, "new")
    stage.journal.write_text("")
    assert stage.swap()
    assert (target / "sub/file.txt").read_text() == "new"
    stage.swap()
    assert (target / "sub/file.txt").read_text() == "old"
    stage.swap()
    stage.clear()
    assert (target / "sub/file.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


@pytest.mark.parametrize("other_disk", [False, True])
def test_files_are_replaced_one_by_one_where_the_target_cannot_be_renamed(tmp_path, monkeypatch, other_disk):
    target = fill(tmp_path / "tree", "old")
    (target / "gone").write_text("a file where the new tree has a folder")
    (target / "folder/deep").mkdir(parents=True)
    (target / "folder/deep/file.txt").write_text("and the other way round")
    stage = Staging(target)
    fill(stage.folder, "new")
    (stage.folder / "gone").mkdir()
    (stage.folder / "gone/file.txt").write_text("new")
    (stage.folder / "folder").write_text("new")

    def refuse(path, _):
        raise OSError(errno.EBUSY, "a disk is mounted here", str(path))

    monkeypatch.setattr(staging, "exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", refuse)
    if other_disk:
        monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "two disks")))
    assert not stage.swap()
    stage.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]
    assert list_files(target) == {"sub/file.txt", "gone/file.txt", "folder"}
    assert {path.read_text() for path in target.rglob("*") if path.is_file()} == {"new"}
    assert all(path.is_file() or any(path.iterdir()) for path in target.rglob("*"))


def test_files_replaced_one_by_one_change_the_identity_of_the_target(tmp_path):
    stage = Staging(fill(tmp_path / "tree", "old"))
    fill(stage.folder, "new")
    os.utime(stage.target, (0, 0))
    before = stage.identify_target()
    stage._replace_files()
    assert stage.identify_target() != before


def test_what_a_file_system_keeps_in_its_root_stays(tmp_path, monkeypatch):
    target = fill(tmp_path / "tree", "old")
    (target / "lost+found").mkdir()
    (target / "sub/lost+found").mkdir()
    (target / "sub/lost+found/file.txt").touch()
    monkeypatch.setattr(Path, "is_mount", lambda path: path == target)
    staging._prune(target, [])
    assert list(target.rglob("*")) == [target / "lost+found"]
    (target / "lost+found/#12").touch()
    assert list_files(target) == set()


def test_a_rename_that_fails_leaves_the_old_tree_in_place(tmp_path, monkeypatch):
    target = fill(tmp_path / "tree", "old")
    stage = Staging(target)
    fill(stage.folder, "new")
    rename = Path.rename

    def fail(path, target):
        if path == stage.folder:
            raise OSError(errno.EIO, "broken", str(path))
        return rename(path, target)

    monkeypatch.setattr(staging, "exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="broken"):
        stage.swap()
    assert (target / "sub/file.txt").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tree", "tree.partial"]


def test_exchange_is_one_step_or_nothing(tmp_path):
    one, other = fill(tmp_path / "one", "1"), fill(tmp_path / "other", "2")
    if not exchange(one, other):
        pytest.skip("this file system cannot exchange two folders; the fallback is tested above")
    assert ((one / "sub/file.txt").read_text(), (other / "sub/file.txt").read_text()) == ("2", "1")
    assert not exchange(one, tmp_path / "absent")


def test_a_kill_between_the_two_renames_is_healed(tmp_path, monkeypatch):
    target = fill(tmp_path / "tree", "old")
    stage = Staging(target)
    fill(stage.folder, "new")
    monkeypatch.setattr(staging, "exchange", lambda *_: False)
    rename = Path.rename

    def die(path, target):
        if path == stage.folder:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            stage.swap()
    assert not target.exists()
    Staging(target).heal()
    assert (target / "sub/file.txt").read_text() == "old"
    assert (stage.folder / "sub/file.txt").read_text() == "new"


def test_a_kill_after_the_two_renames_is_healed(tmp_path):
    target = fill(tmp_path / "tree", "new")
    fill(tmp_path / "tree.partial-old", "old")
    Staging(target).heal()
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_a_torn_or_foreign_journal_line_is_passed_over(tmp_path):
    stage = Staging(tmp_path / "tree")
    good = dict.fromkeys(staging.LEDGER.names)
    stage.journal.write_text("\n".join(['{"path": 1}', "[]", json.dumps(good), json.dumps(good)[:-9]]))
    assert stage.heal() == [good]
    for wrong in ({"path": 1}, {"width": "wide"}, {"bytes": -1}, {"source_crc32s": [10**30]}, {"box": float("nan")}):
        stage.journal.write_text(json.dumps({**good, **wrong}))
        assert stage.heal() == []


def test_a_second_run_is_refused_while_one_is_at_work(tmp_path):
    lock = Staging(tmp_path / "tree").lock()
    with pytest.raises(WriteError, match="Another run is building"):
        Staging(tmp_path / "tree").lock()
    lock.release()
    Staging(tmp_path / "tree").lock().release()


def test_files_are_kept_by_copy_where_links_are_not_to_be_had(tmp_path, monkeypatch):
    target = fill(tmp_path / "tree", "old")
    stage = Staging(target)
    monkeypatch.setattr(staging.os, "link", lambda *_: (_ for _ in ()).throw(PermissionError))
    stage.keep("sub/file.txt")
    assert (stage.folder / "sub/file.txt").read_text() == "old"
    assert (target / "sub/file.txt").stat().st_nlink == 1
