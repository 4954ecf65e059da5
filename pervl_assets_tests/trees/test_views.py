"""Views: links rather than copies, and the layout of Hugging Face's `imagefolder`."""

import errno
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.archives.members import open_members
from pervl_assets.core.errors import ArchiveError
from pervl_assets.trees import staging
from pervl_assets.trees.build import build_tree, commit_tree
from pervl_assets.trees.ledger import verify_tree
from pervl_assets.trees.members import TreeMembers, open_tree, open_trees
from pervl_assets.trees.plans import Output, RenderTask, TreePlan, copy_member
from pervl_assets.trees.views import EVALUATION, FEW_SHOT, plan_image_folder, plan_view
from pervl_assets_tests.core.samples import photograph, write_zip

MEMBERS = {f"{letter}{number}.jpg": f"picture {letter}{number}".encode() for letter in "ab" for number in range(3)}
OUTPUTS = [
    Output(
        f"learn/{name[0]}/{name}" if "0" not in name else f"search/{name}", name[0], "few" if "0" not in name else "all"
    )
    for name in MEMBERS
]
SOURCE = TreePlan("tree", tuple(RenderTask((o.path[-6:],), (o,)) for o in OUTPUTS), copy_member, 1)
ROLES = {"few": FEW_SHOT, "all": EVALUATION}


def make_source(tmp_path, name="tree", members=MEMBERS):
    path = write_zip(tmp_path / f"{name}.zip", members)
    with open_members(RawArchive(path, identify(path))) as source:
        return commit_tree(build_tree(SOURCE, source, tmp_path / name))


def make_view(tmp_path, tree, plan, previous=None):
    with open_tree(tree) as source:
        return commit_tree(build_tree(plan, source, tmp_path / "views/one", previous))


@pytest.fixture
def plan():
    return plan_image_folder("views/one", SOURCE, ROLES, lambda concept, image: {"text": f"{concept} in {image}, é"})


def is_linked(tree, view, path, seen_as):
    return (tree.root / path).samefile(view.root / seen_as)


def test_a_view_has_links_and_its_metadata_names_existing_files(tmp_path, plan):
    tree = make_source(tmp_path)
    view = make_view(tmp_path, tree, plan)
    assert (view.written, view.quarantined, view.missing) == (8, 0, 0)
    assert is_linked(tree, view, "learn/a/a1.jpg", "train/a/a1.jpg")
    assert is_linked(tree, view, "search/b0.jpg", "test/b/b0.jpg")
    lines = (view.root / "train/metadata.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["file_name"] for line in lines] == ["a/a1.jpg", "a/a2.jpg", "b/b1.jpg", "b/b2.jpg"]
    assert json.loads(lines[0]) == {"file_name": "a/a1.jpg", "concept": "a", "text": "a in a1.jpg, é"}
    assert verify_tree(view.root, view.ledger).unchanged


def test_a_second_view_writes_nothing_and_a_repair_links_again(tmp_path, plan):
    tree = make_source(tmp_path)
    view = make_view(tmp_path, tree, plan)
    before = photograph(tmp_path)
    again = make_view(tmp_path, tree, plan, view.ledger)
    assert again.rendered == 0
    assert photograph(tmp_path) == before
    (view.root / "train/a/a1.jpg").unlink()
    (view.root / "test/b/b0.jpg").unlink()
    (view.root / "test/b/b0.jpg").write_bytes(b"changed in the view alone")
    again = make_view(tmp_path, tree, plan, view.ledger)
    assert again.rendered == 2
    assert photograph(tmp_path) == before
    assert is_linked(tree, again, "search/b0.jpg", "test/b/b0.jpg")


def test_a_changed_source_is_in_the_view_only_after_building_it_again(tmp_path, plan):
    tree = make_source(tmp_path)
    view = make_view(tmp_path, tree, plan)
    newer = make_source(tmp_path, members={**MEMBERS, "a1.jpg": b"new"})
    assert (view.root / "train/a/a1.jpg").read_bytes() == b"picture a1"
    view = make_view(tmp_path, newer, plan, view.ledger)
    assert (view.root / "train/a/a1.jpg").read_bytes() == b"new"
    assert is_linked(newer, view, "learn/a/a1.jpg", "train/a/a1.jpg")


@pytest.mark.parametrize("damage", [lambda file: file.write_bytes(b"damaged"), Path.unlink])
def test_a_source_tree_that_is_damaged_ends_the_run_and_leaves_the_view(tmp_path, plan, damage):
    tree = make_source(tmp_path)
    view = make_view(tmp_path, tree, plan)
    damage(tree.root / "learn/a/a1.jpg")
    with pytest.raises(ArchiveError, match=r"a1\.jpg"):
        make_view(tmp_path, tree, replace(plan, version=2), view.ledger)
    assert verify_tree(view.root, view.ledger).missing + verify_tree(view.root, view.ledger).extra == []


def test_files_are_linked_unread_if_their_ledger_is_younger_and_read_otherwise(tmp_path, plan, monkeypatch):
    tree = make_source(tmp_path)
    monkeypatch.setattr(TreeMembers, "read", lambda *_: pytest.fail("read"))
    view = make_view(tmp_path, replace(tree, recorded_ns=time.time_ns() + 10**9), plan)
    assert verify_tree(view.root, view.ledger).unchanged
    shutil.rmtree(tmp_path / "views")
    monkeypatch.undo()
    oldest = min((tree.root / path).stat().st_mtime_ns for path in tree.ledger["path"])
    assert make_view(tmp_path, replace(tree, recorded_ns=oldest), plan).ledger.equals(view.ledger)


@pytest.mark.parametrize("data", [b"damaged 01", b"short"])
def test_a_source_file_that_changed_after_its_ledger_is_noticed(tmp_path, plan, data):
    tree = replace(make_source(tmp_path), recorded_ns=time.time_ns() + 10**9)
    path = tree.root / "learn/a/a1.jpg"
    path.write_bytes(data)
    os.utime(path, ns=(tree.recorded_ns,) * 2)
    with pytest.raises(ArchiveError, match=r"a1.jpg is not the file that was written there"):
        make_view(tmp_path, tree, plan)


def test_a_ledger_that_may_be_ahead_of_its_files_vouches_for_none(tmp_path, plan):
    tree = replace(make_source(tmp_path), recorded_ns=time.time_ns() + 10**9)
    (tree.root / "learn/a/a1.jpg").write_bytes(b"damaged 01")
    (tmp_path / "tree.partial").mkdir()  # a run was killed between ledger and files
    with pytest.raises(ArchiveError, match=r"a1.jpg is not the file that was written there"):
        make_view(tmp_path, tree, plan)


def test_files_are_copied_where_they_cannot_be_linked(tmp_path, plan, monkeypatch):
    tree = make_source(tmp_path)

    def refuse(*_):
        raise PermissionError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(staging.os, "link", refuse)
    view = make_view(tmp_path, tree, plan)
    assert not is_linked(tree, view, "learn/a/a1.jpg", "train/a/a1.jpg")
    assert verify_tree(view.root, view.ledger).unchanged


def test_a_view_of_several_trees_names_them(tmp_path):
    trees = [make_source(tmp_path, name) for name in ("one", "two")]
    files = [(f"{name}/search/a0.jpg", Output(f"{name}.jpg", "a", FEW_SHOT)) for name in ("one", "two")]
    files.append(("one/search/b0.jpg", Output("one.jpg", "b", FEW_SHOT)))  # the first at a path wins
    plan = plan_view("view", files, lambda ledger: {"count.txt": str(ledger.height).encode()})
    with open_trees(trees) as source:
        view = commit_tree(build_tree(plan, source, tmp_path / "view"))
    assert is_linked(trees[1], view, "search/a0.jpg", "two.jpg")
    assert {path: data for path, (data, _) in photograph(view.root).items()} == {
        "one.jpg": b"picture a0",
        "two.jpg": b"picture a0",
        "count.txt": b"2",
    }
