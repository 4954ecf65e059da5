"""Building trees: files kept, repaired, quarantined and missing; locks; and the state of the disk after failures."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.archives.members import Members, open_members
from pervl_assets.core.errors import AnnotationError, ArchiveError, PasswordError, PervlError, WriteError
from pervl_assets.core.files import Lock
from pervl_assets.core.tables import read_hashed
from pervl_assets.trees import build as build_module
from pervl_assets.trees import staging
from pervl_assets.trees.build import Output, RenderTask, TreePlan, build_tree, commit_tree
from pervl_assets.trees.ledger import LEDGER, verify_tree
from pervl_assets.trees.staging import Staging
from pervl_assets_tests.core.samples import (
    photograph,
    plan_copies,
    render_capitals,
    write_encrypted_zip,
    write_zip,
)

MEMBERS = {f"{letter}.txt": f"text {letter}".encode() for letter in "abcdef"}


def build(tmp_path, plan, members=MEMBERS, previous=None, **options):
    path = write_zip(tmp_path / "raw.zip", members)
    with open_members(RawArchive(path, identify(path))) as source:
        return build_tree(plan, source, tmp_path / "tree", previous, **options)


def read_all(tmp_path):
    return {path: data for path, (data, _) in photograph(tmp_path / "tree").items()}


def has_leftovers(tmp_path):
    return any("partial" in path.name for path in tmp_path.rglob("*"))


def test_a_tree_is_staged_then_put_in_place(tmp_path):
    tree = build(tmp_path, plan_copies(list(MEMBERS)))
    assert tree.staged == tmp_path / "tree.partial"
    assert not (tmp_path / "tree").exists()
    tree = commit_tree(tree)
    assert read_all(tmp_path) == {f"class/{name}": data.upper() for name, data in MEMBERS.items()}
    assert tree.staged is None
    assert not has_leftovers(tmp_path)
    assert (tree.written, tree.quarantined, tree.missing, tree.rendered) == (6, 0, 0, 6)
    assert tree.bytes == sum(len(data) for data in MEMBERS.values())
    LEDGER.validate(tree.ledger, "ledger")
    assert verify_tree(tree.root, tree.ledger).unchanged


def test_nothing_changed_means_nothing_is_written(tmp_path):
    plan = plan_copies(list(MEMBERS), listing=True)
    first = commit_tree(build(tmp_path, plan))
    before = photograph(tmp_path / "tree"), (tmp_path / "tree").parent.stat().st_mtime_ns
    write_zip(tmp_path / "raw.zip", MEMBERS)
    again = build(tmp_path, plan, previous=first.ledger)
    assert (again.staged, again.rendered) == (None, 0)
    assert again.ledger.equals(first.ledger)
    assert again.content_hash == first.content_hash
    commit_tree(again)
    assert (photograph(tmp_path / "tree"), (tmp_path / "tree").parent.stat().st_mtime_ns) == before


@pytest.mark.parametrize("damage", ["deleted", "changed", "truncated"])
def test_only_damaged_files_are_repaired(tmp_path, damage):
    plan = plan_copies(list(MEMBERS), listing=True)
    first = commit_tree(build(tmp_path, plan))
    victim = tmp_path / "tree/class/c.txt"
    before = photograph(tmp_path / "tree")
    if damage == "deleted":
        victim.unlink()
    else:
        victim.write_bytes(b"TEXT X" if damage == "changed" else b"")
    again = commit_tree(build(tmp_path, plan, previous=first.ledger))
    assert again.rendered == 1
    after = photograph(tmp_path / "tree")
    assert [path for path in before if after[path] != before[path]] == ["class/c.txt"]
    assert after["class/c.txt"][0] == b"TEXT C"
    assert not has_leftovers(tmp_path)


def test_changed_members_and_new_rules_are_rendered_again(tmp_path):
    plan = plan_copies(list(MEMBERS))
    first = commit_tree(build(tmp_path, plan))
    second = commit_tree(build(tmp_path, plan, {**MEMBERS, "b.txt": b"new"}, first.ledger))
    assert second.rendered == 1
    assert read_all(tmp_path)["class/b.txt"] == b"NEW"
    assert second.content_hash != first.content_hash
    third = build(tmp_path, plan_copies(list(MEMBERS), version=2), {**MEMBERS, "b.txt": b"new"}, second.ledger)
    assert third.rendered == 6
    assert commit_tree(third).content_hash == second.content_hash


def test_files_that_are_no_longer_planned_are_removed(tmp_path):
    first = commit_tree(build(tmp_path, plan_copies(list(MEMBERS))))
    (tmp_path / "tree/class/.hidden").write_bytes(b"")
    (tmp_path / "tree/stray").mkdir()
    (tmp_path / "tree/stray/note.txt").write_bytes(b"")
    tree = commit_tree(build(tmp_path, plan_copies(["a.txt", "b.txt"]), previous=first.ledger))
    assert tree.rendered == 0
    assert set(read_all(tmp_path)) == {"class/a.txt", "class/b.txt"}
    assert [path.name for path in (tmp_path / "tree").iterdir()] == ["class"]
    assert not has_leftovers(tmp_path)


def test_a_tree_made_by_hand_is_replaced_whole(tmp_path):
    (tmp_path / "tree/class").mkdir(parents=True)
    (tmp_path / "tree/class/a.txt").write_bytes(b"made by upstream's scripts")
    commit_tree(build(tmp_path, plan_copies(["a.txt"])))
    assert read_all(tmp_path) == {"class/a.txt": b"TEXT A"}


def test_a_tree_that_is_a_link_to_another_disk_stays_one(tmp_path):
    (tmp_path / "large_disk/tree").mkdir(parents=True)
    (tmp_path / "tree").symlink_to(tmp_path / "large_disk/tree")
    commit_tree(build(tmp_path, plan_copies(["a.txt"])))
    assert (tmp_path / "tree").is_symlink()
    assert read_all(tmp_path) == {"class/a.txt": b"TEXT A"}
    assert not has_leftovers(tmp_path)


def test_every_expected_output_is_written_quarantined_or_missing(tmp_path):
    path = write_zip(tmp_path / "raw.zip", {**MEMBERS, "a.txt": b"bad apple"})
    path.write_bytes(path.read_bytes().replace(b"text b", b"text B", 1))
    with open_members(RawArchive(path, identify(path))) as source:
        tree = commit_tree(build_tree(plan_copies([*MEMBERS, "x.txt", "y.txt"]), source, tmp_path / "tree"))
    assert (tree.written, tree.quarantined, tree.missing) == (4, 2, 2)
    reasons = dict(tree.ledger.filter(pl.col("reason").is_not_null()).select("path", "reason").iter_rows())
    assert reasons == {
        "class/a.txt": "it is bad",
        "class/b.txt": "b.txt: its CRC does not match: the bytes are damaged",
        "class/x.txt": "not in raw.zip: x.txt",
        "class/y.txt": "not in raw.zip: y.txt",
    }
    assert len(read_all(tmp_path)) == 4


def test_quarantined_outputs_are_tried_again_and_only_they(tmp_path):
    plan = plan_copies(list(MEMBERS))
    path = write_zip(tmp_path / "raw.zip", MEMBERS)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"text b", b"text B", 1))
    archive = RawArchive(path, identify(path))
    with open_members(archive) as source:
        first = commit_tree(build_tree(plan, source, tmp_path / "tree"))
        before = photograph(tmp_path / "tree")
        still = commit_tree(build_tree(plan, source, tmp_path / "tree", first.ledger))
    assert first.quarantined == still.quarantined == 1
    assert photograph(tmp_path / "tree") == before
    assert still.ledger.equals(first.ledger)
    path.write_bytes(whole)
    with open_members(archive) as source:
        repaired = commit_tree(build_tree(plan, source, tmp_path / "tree", first.ledger))
    assert (repaired.quarantined, repaired.rendered, repaired.written) == (0, 1, 6)


def test_a_class_with_nothing_in_it_leaves_no_empty_folder(tmp_path):
    outputs = [RenderTask((name,), (Output(f"{name[0]}/{name}", name[0], "capitals"),)) for name in MEMBERS]
    plan = TreePlan("tree", tuple(outputs), render_capitals, 1)
    first = commit_tree(build(tmp_path, plan))
    tree = commit_tree(build(tmp_path, plan, {**MEMBERS, "a.txt": b"bad"}, first.ledger))
    assert tree.quarantined == 1
    assert sorted(path.name for path in (tmp_path / "tree").iterdir()) == ["b", "c", "d", "e", "f"]


def test_summaries_are_in_the_ledger_and_follow_it(tmp_path):
    first = commit_tree(build(tmp_path, plan_copies(list(MEMBERS), listing=True)))
    assert read_all(tmp_path)["listing.txt"].decode().split() == [f"class/{name}" for name in MEMBERS]
    assert first.ledger.filter(path="listing.txt")["rule"].to_list() == ["summary"]
    (tmp_path / "tree/listing.txt").write_bytes(b"")
    again = build(tmp_path, plan_copies(list(MEMBERS), listing=True), previous=first.ledger)
    assert again.staged is not None
    commit_tree(again)
    assert verify_tree(again.root, again.ledger).unchanged


def test_an_archive_of_something_else_does_not_empty_a_good_tree(tmp_path):
    first = commit_tree(build(tmp_path, plan_copies(list(MEMBERS))))
    with pytest.raises(ArchiveError, match="holds none of the 6 members"):
        build(tmp_path, plan_copies(list(MEMBERS)), {"valid/a.txt": b""}, first.ledger)
    assert len(read_all(tmp_path)) == 6


def test_a_tree_of_which_most_cannot_be_made_is_refused_and_the_good_one_stays(tmp_path):
    plan = plan_copies(list(MEMBERS))
    first = commit_tree(build(tmp_path, plan))
    before = photograph(tmp_path / "tree")
    damaged = {name: b"bad" if name < "d" else data for name, data in MEMBERS.items()}
    most = {name: data for name, data in damaged.items() if name != "f.txt"}  # three are bad, one is missing
    with pytest.raises(ArchiveError, match=r"4 of 6 files of tree cannot be made from .*raw.zip: 66.7%") as raised:
        build(tmp_path, plan, most, first.ledger)
    assert "class/a.txt: it is bad" in raised.value.details
    assert "PERVL_MAX_QUARANTINED_SHARE" in raised.value.advice
    assert photograph(tmp_path / "tree") == before
    half = commit_tree(build(tmp_path, plan, damaged, first.ledger))
    assert (half.written, half.quarantined) == (3, 3)
    less = commit_tree(build(tmp_path, plan, most, half.ledger, max_lost=0.7))
    assert (less.written, less.missing) == (2, 1)
    with pytest.raises(ArchiveError, match="4 of 6"):  # also if there is nothing to do
        build(tmp_path, plan, most, less.ledger)


def test_a_plan_without_files_does_not_empty_a_good_tree(tmp_path):
    commit_tree(build(tmp_path, plan_copies(list(MEMBERS))))
    with pytest.raises(PervlError, match="The annotations name no file of tree"):
        build(tmp_path, plan_copies([]))
    assert len(read_all(tmp_path)) == 6
    shutil.rmtree(tmp_path / "tree")
    assert commit_tree(build(tmp_path, plan_copies([]))).written == 0


def test_a_wrong_password_is_found_before_any_work(tmp_path):
    path = write_encrypted_zip(tmp_path / "raw.zip", MEMBERS, "geheim")
    with (
        open_members(RawArchive(path, identify(path)), "falsch") as source,
        pytest.raises(PasswordError),
    ):
        build_tree(plan_copies(list(MEMBERS)), source, tmp_path / "tree")
    assert [found.name for found in tmp_path.iterdir()] == ["raw.zip"]


@pytest.mark.parametrize(
    ("paths", "error", "words"),
    [
        (("a", "a", "b"), AnnotationError, "2 files .*\n  a\n  a\n"),
        (("Dog/1", "dog/1"), AnnotationError, "2 files .*\n  Dog/1\n  dog/1\n"),
        (("../a",), ValueError, "leaves its folder"),
        (("/a",), ValueError, "leaves its folder"),
    ],
)
def test_plans_that_leave_the_tree_or_name_a_file_twice_are_refused(tmp_path, paths, error, words):
    plan = TreePlan(
        "tree", (RenderTask(("a.txt",), tuple(Output(path, "", "x") for path in paths)),), render_capitals, 1
    )
    with pytest.raises(error, match=words):
        build(tmp_path, plan)


def test_progress_counts_every_output_once(tmp_path):
    seen = []
    build(tmp_path, plan_copies([*MEMBERS, "x.txt"]), on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 7) for done in range(1, 8)]


def test_worker_processes_give_the_same_tree(tmp_path):
    members = {f"{number:03}.txt": f"text {number}".encode() for number in range(90)}
    (tmp_path / "one").mkdir()
    alone = build(tmp_path / "one", plan_copies(list(members)), members)
    several = build(tmp_path, plan_copies(list(members)), members, workers=2)
    assert several.ledger.equals(alone.ledger)
    assert several.rendered == 90
    assert verify_tree(several.staged, several.ledger).unchanged


def test_verifying_names_missing_changed_and_extra_files(tmp_path):
    tree = commit_tree(build(tmp_path, plan_copies(list(MEMBERS))))
    (tree.root / "class/a.txt").unlink()
    (tree.root / "class/b.txt").write_bytes(b"TEXT X")
    (tree.root / "class/new.txt").write_bytes(b"")
    diff = verify_tree(tree.root, tree.ledger)
    assert not diff.unchanged
    assert (diff.missing, diff.changed, diff.extra) == (["class/a.txt"], ["class/b.txt"], ["class/new.txt"])


# ---- two runs at once


def test_a_tree_is_locked_until_it_is_in_place(tmp_path):
    first = commit_tree(build(tmp_path, plan_copies(["a.txt"])))
    one = build(tmp_path, plan_copies(list(MEMBERS)), previous=first.ledger)
    with pytest.raises(WriteError, match="Another run is building"):
        build(tmp_path, plan_copies(list(MEMBERS)), previous=first.ledger)
    one = commit_tree(one)
    assert verify_tree(one.root, one.ledger).unchanged
    assert build(tmp_path, plan_copies(list(MEMBERS)), previous=one.ledger).staged is None
    assert not has_leftovers(tmp_path)


def test_a_run_with_nothing_to_do_leaves_the_work_of_another_alone(tmp_path):
    first = commit_tree(build(tmp_path, plan_copies(["a.txt"])))

    def render(task, blobs):
        if task.members == ("c.txt",):
            build(tmp_path, plan_copies(["a.txt"]), previous=first.ledger)
        yield from render_capitals(task, blobs)

    newer = commit_tree(build(tmp_path, replace(plan_copies(list(MEMBERS)), render=render), previous=first.ledger))
    assert verify_tree(newer.root, newer.ledger).unchanged


def test_a_run_with_nothing_to_do_does_not_save_its_ledger_over_a_newer_one(tmp_path):
    ledger = tmp_path / "ledger.parquet"
    first = commit_tree(build(tmp_path, plan_copies(["a.txt"])), ledger)
    idle = build(tmp_path, plan_copies(["a.txt"]), previous=first.ledger)
    newer = commit_tree(build(tmp_path, plan_copies(list(MEMBERS)), previous=first.ledger), ledger)
    commit_tree(idle, ledger)
    assert read_hashed(ledger)[0].equals(newer.ledger)


def test_a_tree_is_synced_then_moved_then_recorded(tmp_path, monkeypatch):
    order = []
    for module, name in ((staging, "sync_tree"), (staging, "exchange"), (build_module, "write_hashed")):
        function = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, f=function, n=name: (order.append(n), f(*a))[1])
    commit_tree(build(tmp_path, plan_copies(["a.txt"])))
    commit_tree(build(tmp_path, plan_copies(list(MEMBERS))), tmp_path / "ledger.parquet")
    assert order == ["sync_tree", "sync_tree", "exchange", "write_hashed"]


def test_what_another_run_finished_meanwhile_is_kept(tmp_path, monkeypatch):
    lock = Staging.lock

    def finish_first(stage):
        monkeypatch.setattr(Staging, "lock", lock)
        commit_tree(build(tmp_path, plan_copies(list(MEMBERS))))
        return lock(stage)

    first = commit_tree(build(tmp_path, plan_copies(list(MEMBERS))))
    (tmp_path / "tree/class/a.txt").unlink()
    monkeypatch.setattr(Staging, "lock", finish_first)
    tree = build(tmp_path, plan_copies(list(MEMBERS)), previous=first.ledger)
    assert (tree.rendered, tree.staged) == (0, None)
    with pytest.raises(WriteError, match="Another run is building"):
        build(tmp_path, plan_copies(list(MEMBERS)))
    commit_tree(tree)
    assert not has_leftovers(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_disk_without_locks_is_a_warning(tmp_path, monkeypatch, caplog, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(Lock, "_warned", set())
    first = commit_tree(build(tmp_path, plan_copies(list(MEMBERS)[:5])))
    commit_tree(build(tmp_path, plan_copies(list(MEMBERS))))
    assert caplog.text.count("has no locks") == 1
    assert len(read_all(tmp_path)) == 6
    (tmp_path / "tree.partial").mkdir()  # perhaps another run's: nothing shows that it is not at work
    build(tmp_path, plan_copies(list(MEMBERS)[:5]), previous=first.ledger)
    assert (tmp_path / "tree.partial").exists()


def test_a_source_that_cannot_be_read_any_more_leaves_the_tree_alone(tmp_path, monkeypatch):
    first = commit_tree(build(tmp_path, plan_copies(list(MEMBERS))))

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fail)
        with pytest.raises(ArchiveError, match="cannot be read"):
            build(tmp_path, plan_copies(list(MEMBERS), version=2), previous=first.ledger)
    assert verify_tree(first.root, first.ledger).unchanged


# ---- kills that are hard to time, and disks that refuse


@pytest.mark.parametrize("ledger_saved", [True, False])
def test_a_kill_while_the_old_tree_is_removed_costs_nothing(tmp_path, monkeypatch, ledger_saved):
    first = commit_tree(build(tmp_path, plan_copies(list(MEMBERS))))
    newer = {**MEMBERS, "b.txt": b"new"}
    tree = build(tmp_path, plan_copies(list(MEMBERS)), newer, first.ledger)
    with monkeypatch.context() as patch:
        patch.setattr(Staging, "clear", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            commit_tree(tree)
    assert has_leftovers(tmp_path)
    previous = tree.ledger if ledger_saved else first.ledger
    again = build(tmp_path, plan_copies(list(MEMBERS)), newer, previous)
    assert (again.rendered, again.staged) == (0, None)
    assert again.ledger.equals(tree.ledger)
    commit_tree(again)
    assert not has_leftovers(tmp_path)


def test_a_resumed_build_never_writes_into_the_tree_in_place(tmp_path, monkeypatch):
    first = commit_tree(build(tmp_path, plan_copies(list(MEMBERS))))
    with monkeypatch.context() as patch:
        patch.setattr(Staging, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):  # by now the staged files are links to those in place
            build(tmp_path, plan_copies(list(MEMBERS)[1:]), previous=first.ledger)
    build(tmp_path, plan_copies(list(MEMBERS)), dict.fromkeys(MEMBERS, b"new"), first.ledger)
    assert verify_tree(first.root, first.ledger).unchanged


def test_staged_files_of_a_killed_build_that_are_no_longer_planned_are_removed(tmp_path):
    build(tmp_path, plan_copies(list(MEMBERS)))  # never committed
    tree = commit_tree(build(tmp_path, plan_copies(["a.txt", "b.txt"])))
    assert tree.rendered == 0
    assert set(read_all(tmp_path)) == {"class/a.txt", "class/b.txt"}


def test_a_full_disk_leaves_the_old_tree_and_the_finished_work(tmp_path, monkeypatch):
    plan = plan_copies(list(MEMBERS))
    first = commit_tree(build(tmp_path, plan))
    newer = {name: data + b" newer" for name, data in MEMBERS.items()}
    write, written = staging.create_file, []

    def fill_up(path, data):
        if path.suffix == ".txt" and len(written) == 3:
            write(path, data[:4])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, data)
        written.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(staging, "create_file", fill_up)
        with pytest.raises(WriteError, match="disk is full"):
            build(tmp_path, plan, newer, first.ledger)
    assert verify_tree(tmp_path / "tree", first.ledger).unchanged
    again = build(tmp_path, plan, newer, first.ledger)
    assert again.rendered == 3
    commit_tree(again)
    assert set(read_all(tmp_path).values()) == {data.upper() for data in newer.values()}
    assert not has_leftovers(tmp_path)


_BUILD_UNDER_LIMIT = """
import resource, sys
from pathlib import Path
from pervl_assets.trees import staging
from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.core.errors import WriteError
from pervl_assets.archives.members import open_members
from pervl_assets.trees.build import build_tree
from pervl_assets_tests.core.samples import plan_copies
if __name__ == "__main__":
    path = Path(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
    with open_members(RawArchive(path, identify(path))) as members:
        try:
            build_tree(plan_copies(sorted(members.names)), members, path.parent / "tree", workers=2)
        except WriteError as error:
            print(error.problem)
            sys.exit(7)
"""


def test_a_file_that_does_not_fit_ends_the_run_from_a_worker_process(tmp_path):
    members = {f"{number:03}.txt": b"t" * (100_000 if number == 60 else 10) for number in range(80)}
    path = write_zip(tmp_path / "raw.zip", members)
    (tmp_path / "script.py").write_text(_BUILD_UNDER_LIMIT)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), str(path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, "File too large" in done.stdout) == (7, True), done.stderr
    assert not (tmp_path / "tree").exists()
    again = commit_tree(build(tmp_path, plan_copies(sorted(members)), members))
    assert again.rendered < 80
    assert (again.written, (tmp_path / "tree/class/060.txt").stat().st_size) == (80, 100_000)
    assert not has_leftovers(tmp_path)


@pytest.fixture
def locked_folder(tmp_path):
    """A folder that this process may not write to; root gives its rights up for the while."""
    folder = tmp_path / "locked"
    folder.mkdir()
    chain = [folder, *list(folder.parents)[:-2]]
    modes = {path: path.stat().st_mode for path in chain}
    for path in chain[1:]:
        path.chmod(modes[path] | 0o055)
    folder.chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    for path, mode in modes.items():
        path.chmod(mode)


def test_a_folder_without_write_permission_is_named(locked_folder):
    plan = plan_copies(["a.txt"])
    with pytest.raises(WriteError, match="Make the folder writable") as caught:
        build_tree(plan, _Memory(Path("memory")), locked_folder / "tree")
    assert str(locked_folder) in caught.value.problem
    assert list(locked_folder.iterdir()) == []


class _Memory(Members):
    """Members held in memory."""

    names = frozenset({"a.txt"})

    def crc32(self, name):
        return 1

    def read(self, name):
        return b"text"

    def select(self, names):
        return self
