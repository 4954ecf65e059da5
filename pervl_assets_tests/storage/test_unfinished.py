"""What killed runs left in a folder: found, and removed once it is old and no run is at work on it."""

import os
import platform
import shutil
import time
from datetime import timedelta
from pathlib import Path

from pervl_assets.core.files import PARTIAL, Lock
from pervl_assets.storage.unfinished import find_work, remove_work

DAY = timedelta(days=1)


def test_the_work_of_a_run_that_is_at_work_is_not_extra(tmp_path):
    (tmp_path / "a.partial").mkdir()
    (tmp_path / "a.partial" / "b.partial").touch()
    (tmp_path / f".c{PARTIAL}-{platform.node()}-{os.getpid()}").touch()
    with Lock(tmp_path / "a.partial.jsonl", "building a"):
        assert not list(find_work(tmp_path))
    (tmp_path / f".c{PARTIAL}-{platform.node()}-{2**22 + 1}").touch()
    assert sorted(find_work(tmp_path)) == [f".c{PARTIAL}-{platform.node()}-{2**22 + 1}", "a.partial"]


def test_folders_that_vanish_meanwhile_are_tolerated(tmp_path):
    """A run beside it makes and removes folders all the time."""
    for name in ("a.partial", "b", "c"):
        (tmp_path / name / "d").mkdir(parents=True)
    found = find_work(tmp_path)
    assert next(found) == "a.partial"
    for name in ("a.partial", "b", "c"):
        shutil.rmtree(tmp_path / name)
    assert not list(found)


def age(*paths: Path) -> None:
    for path in (one for root in paths for one in (root, *root.rglob("*"))):
        os.utime(path, (time.time() - 2 * 86400,) * 2)


def leave_tree(folder: Path, name: str) -> list[Path]:
    """Leave what a killed build of a tree leaves: files, and the journal."""
    (staged := folder / f"{name}{PARTIAL}").mkdir(parents=True)
    (staged / "a.jpg").write_bytes(b"otter")
    (journal := folder / f"{name}{PARTIAL}.jsonl").write_text("{}\n")
    return [staged, journal]


def test_only_old_work_is_removed(tmp_path):
    old, new, resumed = (leave_tree(tmp_path, name) for name in ("old", "new", "resumed"))
    age(*old, *resumed)
    (resumed[0] / "b.jpg").touch()
    for name in ("value", "value.partial.zip"):
        (tmp_path / name).write_bytes(b"stays")
        age(tmp_path / name)
    seen = remove_work(tmp_path, DAY, dry_run=True)
    assert (seen.work, seen.bytes, seen.objects) == (["old.partial", "old.partial.jsonl"], 8, 0)
    assert all(path.exists() for path in old)
    assert remove_work(tmp_path, DAY, dry_run=False) == seen
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["value", "value.partial.zip", *(path.name for path in (*new, *resumed))]
    )


def test_the_work_of_a_run_that_begins_meanwhile_stays(tmp_path):
    staged, journal = leave_tree(tmp_path, "old")
    age(staged, journal)
    with Lock(journal, "building it"):
        assert remove_work(tmp_path, DAY, dry_run=False).work == []
        assert staged.is_dir()
    chunks = tmp_path / f"1-of-2{PARTIAL}"
    chunks.mkdir()
    age(chunks)
    with Lock(tmp_path / f"{chunks.name}.lock", "encoding it"):
        remove_work(tmp_path, DAY, dry_run=False)
        assert chunks.is_dir()
    age(chunks)
    assert remove_work(tmp_path, DAY, dry_run=False).work == ["1-of-2.partial"]
    assert not list(tmp_path.iterdir())


def test_the_only_copy_of_a_tree_stays(tmp_path):
    """The run was killed between two renames."""
    (retired := tmp_path / f"tree{PARTIAL}-old").mkdir()
    (retired / "a.jpg").write_bytes(b"otter")
    age(retired)
    assert not remove_work(tmp_path, DAY, dry_run=False).work
    (tmp_path / "tree").mkdir()
    assert remove_work(tmp_path, DAY, dry_run=False).work == ["tree.partial-old"]
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]
