"""Export of trees and training files out of a folder and out of a bucket, and pruning of what no manifest names."""

import io
from datetime import timedelta
from functools import partial

import dagster as dg
import polars as pl
import pytest

from pervl_assets.core.errors import BusyError, MissingInputError, PervlError, SchemaError, WriteError
from pervl_assets.core.files import PARTIAL
from pervl_assets.io_managers.stored_files import MANIFESTS, Export, plan_export
from pervl_assets.storage import bucket_client, open_store, pruning
from pervl_assets.trees.staging import Staging
from pervl_assets_tests.core.samples import photograph
from pervl_assets_tests.io_managers.test_io_managers import KEY, KINDS
from pervl_assets_tests.storage.buckets import DATA, bucket, move_to

__all__ = ["bucket", "move_to"]

TREE, FILE = KINDS["trees"], KINDS["training_files"]
NOW = timedelta(0)


@pytest.fixture(params=["folder", "bucket"])
def data(request, tmp_path, bucket) -> str:
    return DATA if request.param == "bucket" else str(tmp_path / "data")


def write(kind, data: str, seed: int = 0, key: dg.AssetKey = KEY) -> None:
    (folder := open_store(data).folder).mkdir(parents=True, exist_ok=True)
    context = dg.build_output_context(asset_key=key, definition_metadata=kind.metadata)
    kind.manage(data).handle_output(context, kind.make(folder, seed))


def plan(kind, data: str) -> Export:
    return plan_export(kind.manage(data), KEY, None)


@pytest.mark.parametrize("kind", [TREE, FILE], ids=lambda kind: kind.name)
def test_an_export_is_a_data_folder_with_this_value(kind, data, tmp_path, move_to):
    write(kind, data)
    expected = {name: (open_store(data).folder / name).read_bytes() for name in kind.files}
    move_to("b")
    made = plan(kind, data).copy_to(out := tmp_path / "out")
    assert (made.files, made.copied) == (len(kind.files), len(kind.files))
    assert {name: (out / name).read_bytes() for name in kind.files} == expected
    manifest = f"assets/group/value{kind.manage(data).extension}"
    assert sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()) == sorted(
        [manifest, *kind.files]
    )
    assert kind.manage(str(out)).verify(KEY).unchanged
    before = photograph(out)
    assert plan(kind, data).copy_to(out).copied == 0
    assert photograph(out) == before
    assert plan(kind, str(out)).copy_to(out).copied == 0  # onto itself


def test_copies_may_be_edited(data, tmp_path):
    write(TREE, data)
    source = open_store(data).folder / TREE.files[0]
    plan(TREE, data).copy_to(tmp_path / "out")
    assert not source.samefile(tmp_path / "out" / TREE.files[0])


def test_an_export_is_repaired(data, tmp_path, move_to):
    write(TREE, data)
    out = tmp_path / "out"
    plan(TREE, data).copy_to(out)
    expected = (out / TREE.files[0]).read_bytes()
    (out / TREE.files[0]).write_bytes(b"x" * len(expected))
    assert plan(TREE, data).copy_to(out).copied == 1
    assert (out / TREE.files[0]).read_bytes() == expected
    write(TREE, data, seed=1)
    assert plan(TREE, data).copy_to(out).copied == 2  # files of the earlier export are replaced
    assert TREE.manage(str(out)).verify(KEY).unchanged


@pytest.mark.parametrize(("kind", "name"), [(TREE, "tree/my notes.txt"), (FILE, FILE.files[0])])
def test_files_of_others_are_not_replaced(data, tmp_path, kind, name):
    write(kind, data)
    own = tmp_path / "out" / name
    own.parent.mkdir(parents=True)
    own.write_text("otters!")
    with pytest.raises(WriteError, match=rf"1 file in .* would be replaced, and no export wrote .*\n  .*{own.name}"):
        plan(kind, data).copy_to(tmp_path / "out")
    assert own.read_text() == "otters!"


def test_damage_is_named_and_the_earlier_export_stays(data, tmp_path, bucket):
    write(TREE, data)
    out = tmp_path / "out"
    plan(TREE, data).copy_to(out)
    before = photograph(out)
    write(TREE, data, seed=1)
    damaged = plan(TREE, data).files[0]
    right = damaged.path.read_bytes()

    def put(content: bytes) -> None:
        damaged.path.write_bytes(content)
        bucket.memory.put(f"data/objects/{damaged.sha256[:2]}/{damaged.sha256}", content)

    put(b"x")
    with pytest.raises(SchemaError, match=r"1 of 2 files of group/value missing or damaged.\n  tree/class/a.jpg"):
        plan(TREE, data).copy_to(out)
    assert {name: seen for name, seen in photograph(out).items() if PARTIAL not in name} == before
    put(right)
    assert plan(TREE, data).copy_to(out).copied == 1  # the other one was copied before
    assert TREE.manage(str(out)).verify(KEY).unchanged


def test_one_export_at_a_time(data, tmp_path):
    write(TREE, data)
    with Staging(tmp_path / "out/tree").lock(), pytest.raises(BusyError, match="Another run is building"):
        plan(TREE, data).copy_to(tmp_path / "out")


def test_what_is_not_materialized_says_so(data):
    with pytest.raises(
        MissingInputError, match=rf"{data}/assets/group/value.parquet does not exist.\n.*pervl material"
    ):
        plan(TREE, data)


@pytest.fixture
def prune(bucket, monkeypatch):
    """Prune whatever is older than this moment."""
    monkeypatch.setattr(pruning, "SAFE", NOW)
    return partial(open_store(DATA).prune, MANIFESTS, NOW, dry_run=False)


def list_objects(bucket) -> set[str]:
    return {name[-64:] for name in bucket.list_names("objects") if not name.endswith("clock")}


def list_named(kind, key: dg.AssetKey = KEY) -> set[str]:
    return {file.sha256 for file in plan_export(kind.manage(DATA), key, None).files}


def test_only_what_no_manifest_names_is_pruned(bucket, prune):
    for seed in range(3):
        write(TREE, DATA, seed)
    write(FILE, DATA, key=dg.AssetKey(["an", "asset", "of", "others"]))
    write(TREE, DATA, 0, dg.AssetKey("same_files"))
    write(KINDS["tables"], DATA, key=dg.AssetKey("table"))
    before = bucket.list_names()
    seen = prune(dry_run=True)
    assert (seen.objects, seen.bytes, seen.work) == (2, 2 * len("a.jpg 1"), [])
    assert bucket.list_names() == before
    assert prune() == seen
    left = list_named(TREE) | list_named(TREE, dg.AssetKey("same_files"))
    assert left < list_objects(bucket)
    assert len(list_objects(bucket)) == 5
    assert all(one.manage(DATA).verify(KEY).unchanged for one in (TREE, FILE))
    assert prune().objects == 0


def test_what_is_young_stays(bucket):
    write(TREE, DATA)
    write(TREE, DATA, 1)
    assert open_store(DATA).prune(MANIFESTS, timedelta(days=1), dry_run=False).objects == 0
    assert len(list_objects(bucket)) == 4
    with pytest.raises(PervlError, match="may be named by a manifest soon"):
        open_store(DATA).prune(MANIFESTS, timedelta(hours=23), dry_run=False)


def test_a_commit_while_it_prunes_loses_nothing(bucket, prune, move_to, monkeypatch):
    write(TREE, DATA)
    write(TREE, DATA, 1)
    first = list_objects(bucket) - list_named(TREE)
    remove_old = pruning._remove_old

    def commit_first(store, *arguments):
        monkeypatch.setattr(pruning, "_remove_old", remove_old)
        move_to("b")
        write(TREE, DATA, 0, dg.AssetKey("other"))
        return remove_old(store, *arguments)

    monkeypatch.setattr(pruning, "_remove_old", commit_first)
    monkeypatch.setattr(bucket_client, "REQUESTS", 1)
    assert prune().objects == 0
    assert first == list_named(TREE, dg.AssetKey("other")) < list_objects(bucket)


@pytest.mark.parametrize("kind", [TREE, FILE], ids=lambda kind: kind.name)
def test_nothing_is_removed_if_a_manifest_is_damaged(kind, bucket, prune, monkeypatch):
    write(kind, DATA)
    write(kind, DATA, 1)
    name = f"assets/group/value{kind.manage(DATA).extension}"
    monkeypatch.setattr(pruning, "_END", 1000)  # so that a look at its end is no look at all of it
    bucket.memory.put(f"data/{name}", bucket.list_names("assets")[name][:-9])
    before = list_objects(bucket)
    with pytest.raises(SchemaError, match=f"{name} cannot be read, so nothing was removed"):
        prune()
    assert list_objects(bucket) == before


def test_large_tables_are_not_downloaded(bucket, prune, monkeypatch):
    write(TREE, DATA)
    (ledger,) = bucket.list_names("assets").values()
    pl.DataFrame({"sha256": range(len(ledger))}).write_parquet(table := io.BytesIO())
    bucket.memory.put("data/assets/table.parquet", table.getvalue())
    monkeypatch.setattr(pruning, "_END", len(ledger) - 1)
    bucket.calls.clear()
    assert prune().objects == 0
    read = [path for method, path in bucket.calls if method == "get"]
    assert read.count("data/assets/group/value.parquet") == 2  # its end, then all of it
    assert read.count("data/assets/table.parquet") == 1


def test_old_parts_of_unfinished_work_are_pruned(bucket, prune, monkeypatch):
    store = open_store(DATA)
    for name in ("a", "b"):
        (work := store.folder / f"assets/{name}.partial").mkdir(parents=True)
        (work / "0").write_bytes(b"chunk")
        store.push_file(work / "0")
    left = prune(dry_run=True)
    assert left.work == ["assets/a.partial", "assets/b.partial"]
    (store.folder / "assets/b.partial/1").write_bytes(b"chunk")
    list_all, begun = bucket_client.BucketClient.list, []

    def go_on_first(client, folder):  # the run goes on while it prunes
        if folder == "assets" and not begun:
            begun.append(store.push_file(store.folder / "assets/b.partial/1"))
        return list_all(client, folder)

    monkeypatch.setattr(bucket_client.BucketClient, "list", go_on_first)
    assert prune().objects == 0
    assert list(bucket.list_names("assets")) == ["assets/b.partial/0", "assets/b.partial/1"]
