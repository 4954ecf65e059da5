"""A data root in a bucket: every kind of value, two writers, failures at every request, damage, hostile manifests."""

import dataclasses
import itertools
import json
import operator
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial

import dagster as dg
import polars as pl
import pytest
from obstore.store import MemoryStore

from pervl_assets.cli.runs import find_dagster_home
from pervl_assets.core.addresses import parse_address
from pervl_assets.core.errors import AddressError, MissingInputError, SchemaError, WriteError
from pervl_assets.core.files import hash_bytes, make_folder
from pervl_assets.core.tables import read_hashed, write_hashed
from pervl_assets.defs.steps import record_step
from pervl_assets.io_managers.base import PervlIOManager
from pervl_assets.io_managers.stored_files import MANIFESTS, plan_export
from pervl_assets.io_managers.tables import TableIOManager
from pervl_assets.storage import bucket_client, object_store, open_store, pruning
from pervl_assets.storage.folder_store import FolderStore
from pervl_assets.storage.store import StoredFile
from pervl_assets.testing.runs import explain
from pervl_assets_tests.clip.test_encode_images import PHOTOS, encode
from pervl_assets_tests.inversion.kit import write_coco
from pervl_assets_tests.io_managers.test_io_managers import KEY, KINDS, Kind, store_and_load
from pervl_assets_tests.storage.buckets import DATA, bucket, move_to

__all__ = ["bucket", "move_to"]

STORED = [kind for name, kind in KINDS.items() if name not in ("raw_archives", "croissant")]


@pytest.fixture(params=STORED, ids=lambda kind: kind.name)
def kind(request) -> Kind:
    return request.param


def make(kind: Kind, seed: int):
    folder = open_store(DATA).folder
    folder.mkdir(parents=True, exist_ok=True)
    return kind.make(folder, seed)


def manage(kind: Kind) -> PervlIOManager:
    return kind.manage(DATA)


def write(kind: Kind, seed: int) -> str:
    """Write a value as a step does; return why it failed, if it did."""
    context = dg.build_output_context(asset_key=KEY, definition_metadata=kind.metadata)
    try:
        manage(kind).handle_output(context, make(kind, seed))
    except dg.Failure as failure:
        return str(failure.description)
    return ""


def show(kind: Kind, value) -> object:
    if kind.name == "trees":
        files = {path: (value.root / path).read_bytes() for path in value.ledger["path"]}
        return value.ledger.drop("source_members").to_dicts(), files
    return kind.show(value)


def test_a_value_is_read_on_another_machine(kind, bucket, move_to):
    value = make(kind, 0)
    loaded, result = store_and_load(kind, value, DATA)
    assert result.success, explain(result)
    here = show(kind, loaded)
    move_to("b")
    assert show(kind, manage(kind).read(KEY)) == here
    assert manage(kind).exists(KEY)
    assert manage(kind).verify(KEY).unchanged
    assert not re.search("partial", str(list(bucket.list_names())))


def test_what_is_recorded_is_the_address_and_the_tag(kind, bucket, move_to):
    _, result = store_and_load(kind, make(kind, 0), DATA)
    (made,) = result.asset_materializations_for_node("group__value")
    assert made.metadata[manage(kind).label].value == f"{DATA}/assets/group/value{manage(kind).extension}"
    stamp = made.metadata["stamp"].value
    move_to("b")
    assert stamp == manage(kind).stamp(KEY) == manage(kind).stamp(KEY, None, open_store(DATA).list_values())
    assert write(kind, 1) == ""
    assert manage(kind).stamp(KEY) != stamp


def test_an_unchanged_value_is_not_written_again_and_needs_no_copy(kind, bucket, move_to):
    assert write(kind, 0) == ""
    stamp, before = manage(kind).stamp(KEY), bucket.list_names()
    bucket.calls.clear()
    assert write(kind, 0) == ""
    assert bucket.count("put") == 0
    assert not [path for method, path in bucket.calls if method == "get" and "objects" in path]
    move_to("b")
    assert write(kind, 0) == ""
    assert bucket.list_names() == before
    assert manage(kind).stamp(KEY) == stamp or bucket.count("put") == 1  # in memory each write has a tag of its own


def test_objects_are_named_by_their_content_and_put_once(bucket):
    kind = KINDS["trees"]
    assert write(kind, 0) == ""
    objects = bucket.list_names("objects")
    assert len(objects) == 2
    for name, content in objects.items():
        assert name == f"objects/{hash_bytes(content)[:2]}/{hash_bytes(content)}"
    bucket.calls.clear()
    assert write(kind, 1) == ""
    assert [path for method, path in bucket.calls if method == "put"][-1] == "data/assets/group/value.parquet"
    assert len(bucket.list_names("objects")) == 4


def test_a_value_that_is_not_there_says_so(kind, bucket):
    with pytest.raises(MissingInputError, match="is not on disk: s3://pervl/data/assets/group/value"):
        manage(kind).read(KEY)
    assert (manage(kind).read_previous(KEY), manage(kind).stamp(KEY), manage(kind).exists(KEY)) == (None, None, False)
    assert manage(kind).verify(KEY).files == 0


def test_a_value_that_was_deleted_is_not_read_from_the_working_copy(kind, bucket):
    assert write(kind, 0) == ""
    bucket.memory.delete(f"data/assets/group/value{manage(kind).extension}")
    assert manage(kind).read_previous(KEY) is None
    assert not manage(kind).exists(KEY)


def test_of_two_writers_the_second_fails_and_changes_nothing(kind, bucket, move_to):
    assert write(kind, 0) == ""
    move_to("b").begin(manage(kind).locate(KEY))
    move_to("a")
    assert write(kind, 1) == ""
    here, before = show(kind, manage(kind).read(KEY)), bucket.list_names("assets")
    move_to("b")
    assert "Another run has written s3://pervl/data/assets/group/value" in write(kind, 2)
    assert bucket.list_names("assets") == before
    assert show(kind, manage(kind).read(KEY)) == here
    move_to("b").begin(manage(kind).locate(KEY))
    assert write(kind, 2) == ""


def test_of_two_first_writers_the_second_fails(kind, bucket, move_to):
    move_to("b").begin(manage(kind).locate(KEY))
    move_to("a")
    assert write(kind, 1) == ""
    move_to("b")
    assert "Another run has written" in write(kind, 2)


def test_of_many_writers_at_once_one_wins(bucket, move_to):
    stores = [move_to(f"{number}") for number in range(12)]
    for store in stores:
        store.begin(store.folder / "assets/value")
    start = threading.Barrier(len(stores))

    def write_own(number: int) -> bool:
        path = stores[number].folder / "assets/value"
        with stores[number].stage(path) as staged:
            make_folder(staged.parent)
            staged.write_bytes(f"{number}".encode())
            start.wait()
            try:
                stores[number].push(path, staged, lambda path: ())
            except WriteError:
                return False
        return True

    with ThreadPoolExecutor(len(stores)) as pool:
        won = [*pool.map(write_own, range(len(stores)))]
    assert won.count(True) == 1
    assert bucket.list_names() == {"assets/value": f"{won.index(True)}".encode()}


def test_a_step_replaces_only_the_value_that_it_saw_when_it_began(bucket, move_to):
    kind = KINDS["tables"]

    @dg.asset(key=KEY, io_manager_key="tables", metadata=kind.metadata)
    @record_step
    def orphan() -> dg.MaterializeResult[pl.DataFrame]:
        move_to("successor")
        assert write(kind, 1) == ""
        move_to("a")
        return TableIOManager.describe(make(kind, 2))

    assert write(kind, 0) == ""
    result = dg.materialize([orphan], resources={"tables": manage(kind)}, raise_on_error=False)
    assert "Another run has written" in explain(result)
    assert kind.show(manage(kind).read(KEY)) == kind.show(make(kind, 1))


def test_a_step_begins_before_its_inputs_are_read(bucket, move_to, monkeypatch):
    """Reading a tree may take an hour, and hang for longer."""
    kind, read = KINDS["tables"], TableIOManager.read

    def read_slowly(manager, key, partition=None):
        move_to("successor")
        assert write(kind, 1) == ""
        move_to("a")
        return read(manager, key, partition)

    @dg.asset(io_manager_key="tables", metadata=kind.metadata)
    def source() -> dg.MaterializeResult[pl.DataFrame]:
        return TableIOManager.describe(make(kind, 0))

    @dg.asset(key=KEY, io_manager_key="tables", metadata=kind.metadata)
    @record_step
    def orphan(source: pl.DataFrame) -> dg.MaterializeResult[pl.DataFrame]:
        return TableIOManager.describe(make(kind, 2))

    assert write(kind, 0) == ""
    monkeypatch.setattr(TableIOManager, "read", read_slowly)
    result = dg.materialize([source, orphan], resources={"tables": manage(kind)}, raise_on_error=False)
    assert "Another run has written" in explain(result)
    assert kind.show(read(manage(kind), KEY)) == kind.show(make(kind, 1))


def test_equal_content_is_no_conflict(bucket, move_to):
    kind = KINDS["tables"]
    move_to("b").begin(manage(kind).locate(KEY))
    move_to("a")
    assert write(kind, 1) == ""
    move_to("b")
    assert write(kind, 1) == ""


@pytest.mark.parametrize("answer_is_lost", [False, True])
def test_after_a_failure_at_any_request_there_is_the_old_value_or_the_new_one(kind, answer_is_lost, bucket, move_to):
    assert write(kind, 0) == ""
    old, before, found = show(kind, manage(kind).read(KEY)), copy_all(bucket.memory), []
    bucket.answer_is_lost = answer_is_lost
    for number in itertools.count(1):
        bucket.memory = MemoryStore()
        for name, content in before.items():
            bucket.memory.put(name, content)
        bucket.calls.clear()
        bucket.fails = partial(operator.eq, number)
        move_to(f"{number}")
        failed, is_over = write(kind, 1), len(bucket.calls) < number
        bucket.fails = lambda number: False
        assert "cannot be read or written: the connection was cut" in failed or not failed
        move_to(f"{number} reader")
        found.append((failed, show(kind, manage(kind).read(KEY))))
        assert manage(kind).verify(KEY).unchanged
        move_to(f"{number}")
        assert write(kind, 1) == ""
        new = show(kind, manage(kind).read(KEY))
        assert found[-1][1] in (old, new)
        if is_over:
            break
    assert number > 2
    assert found[0] != (failed, new)
    assert found[-1] == ("", new)


def copy_all(memory: MemoryStore) -> dict[str, bytes]:
    return {meta["path"]: bytes(memory.get(meta["path"]).bytes()) for batch in memory.list() for meta in batch}


@pytest.mark.parametrize("kind", [KINDS["trees"], KINDS["training_files"]], ids=lambda kind: kind.name)
@pytest.mark.parametrize(("machine", "repairer"), [("a", "a"), ("b", "b"), ("b", "c")])
def test_lost_and_damaged_objects_are_found_and_repaired(kind, machine, repairer, bucket, move_to):
    assert write(kind, 0) == ""
    before = bucket.list_names()
    files = {f"objects/{hash_bytes(data)[:2]}/{hash_bytes(data)}": file for file, data in read_files(kind).items()}
    move_to(machine)
    for name, content in bucket.list_names("objects").items():
        bucket.memory.delete(f"data/{name}")
        assert files[name] in manage(kind).verify(KEY).missing
        bucket.memory.put(f"data/{name}", bytes(255 - byte for byte in content))
        assert files[name] in manage(kind).verify(KEY).changed
    move_to(repairer)
    assert write(kind, 0) == ""
    assert manage(kind).verify(KEY).unchanged
    assert bucket.list_names() == before


def test_damage_that_a_reader_cannot_mark_is_found_all_the_same(bucket, move_to):
    """A reader may have no permission to write."""
    kind = KINDS["training_files"]
    assert write(kind, 0) == ""
    [(name, content)] = bucket.list_names("objects").items()
    bucket.memory.put(f"data/{name}", bytes(255 - byte for byte in content))
    bucket.fails = lambda number: bucket.calls[-1][0] == "put"
    move_to("b")
    assert manage(kind).verify(KEY).changed == ["train/names.npy"]


def read_files(kind: Kind) -> dict[str, bytes]:
    return {file: (open_store(DATA).folder / file).read_bytes() for file in kind.files}


def test_a_damaged_working_copy_heals(kind, bucket):
    assert write(kind, 0) == ""
    store = open_store(DATA)
    manage(kind).fetch(KEY, whole=True)
    here = read_files(kind)
    for file in (manage(kind).locate(KEY), *(store.folder / file for file in kind.files)):
        file.write_bytes(b"ruined by a raccoon")
    manage(kind).fetch(KEY, whole=True)
    assert read_files(kind) == here
    assert manage(kind).read_previous(KEY) is not None


@pytest.mark.parametrize(
    ("root", "path", "sha256"),
    [
        ("../out", "a.jpg", None),
        ("/out", "a.jpg", None),
        ("tree", "../../../out/a.jpg", None),
        ("tree", "/out.jpg", None),
        ("tree", "a.jpg", "../../../assets/secret"),
    ],
)
def test_a_manifest_that_leads_elsewhere_is_refused(root, path, sha256, bucket, move_to, tmp_path):
    kind = KINDS["trees"]
    assert write(kind, 0) == ""
    ledger, metadata = read_hashed(manage(kind).fetch(KEY))
    changed = [one for one, wanted in (("path", path), ("sha256", sha256)) if wanted]
    hostile = ledger.head(1).with_columns(pl.lit({"path": path, "sha256": sha256}[one]).alias(one) for one in changed)
    write_hashed(hostile, tmp_path / "hostile", {**metadata, "root": root})
    bucket.memory.put("data/assets/group/value.parquet", tmp_path / "hostile")
    move_to("b")
    before = {*tmp_path.rglob("*.jpg")}
    with pytest.raises(SchemaError, match=r"leads out of|is no sha256"):
        manage(kind).read(KEY)
    assert {*tmp_path.rglob("*.jpg")} == before
    assert manage(kind).verify(KEY).changed == ["assets/group/value.parquet"]


def test_no_manifest_writes_a_value_or_the_home_of_dagster(bucket, move_to, monkeypatch, tmp_path):
    """A `dagster.yaml` there would run code."""
    kind, content = KINDS["training_files"], b"run_launcher: {module: evil, class: Evil}"
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    store, home = open_store(DATA), find_dagster_home(parse_address(DATA))
    assert home.is_relative_to(tmp_path / "a")
    assert not home.is_relative_to(store.folder)
    written = StoredFile(tmp_path / "written", len(content), hash_bytes(content))
    written.path.write_bytes(content)
    store.push_files([written])
    for name in ("assets/dagster/dagster.yaml", "assets/./other.json", "dagster.yaml", "./.env"):
        manifest = {"file": name, "bytes": written.bytes, "sha256": written.sha256}
        bucket.memory.put("data/assets/group/value.json", json.dumps(manifest).encode())
        with pytest.raises(SchemaError, match="is that of a"):
            manage(kind).read(KEY)
        assert manage(kind).verify(KEY).changed == ["assets/group/value.json"]
        assert not (store.folder / name).exists()


def test_equal_files_of_another_tree_take_no_room(bucket, move_to):
    kind, other = KINDS["trees"], dg.AssetKey("other")
    assert write(kind, 0) == ""
    move_to("b")
    tree = manage(kind).read(KEY)
    bucket.calls.clear()
    write_again(tree, other)
    assert [path for method, path in bucket.calls if method == "put"] == ["data/assets/other.parquet"]


def write_again(tree, key: dg.AssetKey) -> None:
    """Write a tree as that of another asset."""
    again = dataclasses.replace(tree, is_saved=False)
    manage(KINDS["trees"]).handle_output(dg.build_output_context(asset_key=key), again)


def test_what_was_downloaded_or_seen_may_be_pruned_before_it_is_named_again(bucket, move_to, monkeypatch):
    """The only manifest that named it was replaced."""
    kind = KINDS["trees"]
    assert write(kind, 0) == ""
    monkeypatch.setattr(pruning, "SAFE", timedelta(hours=1))
    monkeypatch.setattr(object_store, "datetime", Later)
    move_to("b")
    tree = manage(kind).read(KEY)
    for name, pruned in zip(["first", "second"], [*bucket.list_names("objects")], strict=True):
        bucket.memory.delete(f"data/{pruned}")
        write_again(tree, dg.AssetKey(name))
        assert manage(kind).verify(dg.AssetKey(name)).unchanged


def test_requests_are_bounded_by_the_tree_and_not_by_the_bucket(bucket, move_to, tmp_path, monkeypatch):
    contents = (f"{number}".encode() for number in itertools.count())
    files = []
    for content in itertools.islice((one for one in contents if hash_bytes(one).startswith("00")), 12):
        (path := tmp_path / hash_bytes(content)).write_bytes(content)
        files.append(StoredFile(path, len(content), path.name))
    for number in range(1500):
        bucket.memory.put(f"data/objects/00/00{number:062x}", b"")
    listed, list_all = [], bucket_client.BucketClient.list
    monkeypatch.setattr(
        bucket_client.BucketClient, "list", lambda *args: (listed.append(one) or one for one in list_all(*args))
    )
    open_store(DATA).push_files(files[:3])
    assert (bucket.count("put"), bucket.count("head"), listed) == (3, 3, [])
    move_to("b").push_files(files)
    assert (bucket.count("put"), len(listed)) == (12, 1200)
    assert len(bucket.list_names("objects")) == 1512


def test_an_old_object_that_no_manifest_names_is_uploaded_again(bucket, move_to, monkeypatch):
    kind = KINDS["training_files"]
    assert write(kind, 0) == ""
    (old,) = bucket.list_names("objects")
    assert write(kind, 1) == ""
    monkeypatch.setattr(pruning, "SAFE", timedelta(0))  # all objects are old

    def prune(number: int) -> bool:
        if bucket.calls[-1] == ("put", "data/assets/group/value.json"):
            bucket.memory.delete(f"data/{old}")
        return False

    bucket.fails = prune
    move_to("b")
    bucket.calls.clear()
    assert write(kind, 0) == ""
    assert bucket.calls.count(("put", f"data/{old}")) == 2
    assert manage(kind).verify(KEY).unchanged


def test_an_old_object_of_another_manifest_is_missed_if_it_is_pruned(bucket, move_to, monkeypatch):
    kind, other = KINDS["trees"], dg.AssetKey("other")
    assert write(kind, 0) == ""
    monkeypatch.setattr(pruning, "SAFE", timedelta(hours=1))
    monkeypatch.setattr(object_store, "datetime", Later)
    old = [*bucket.list_names("objects")]

    def prune(number: int) -> bool:
        if bucket.calls[-1] == ("put", "data/assets/other.parquet"):
            bucket.memory.delete([f"data/{name}" for name in old])
        return False

    bucket.fails = prune
    move_to("b")
    tree = manage(kind).read(KEY)
    manage(kind).handle_output(dg.build_output_context(asset_key=other), dataclasses.replace(tree, is_saved=False))
    assert [*bucket.list_names("objects")] == old
    assert manage(kind).verify(other).unchanged


class Later(datetime):
    """A clock that is two hours ahead."""

    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + timedelta(hours=2)


def test_parts_of_unfinished_work_are_continued_elsewhere(bucket, move_to, monkeypatch):
    kind = KINDS["features"]
    work = manage(kind).resume_work(KEY)
    assert not work.exists()
    work.mkdir(parents=True)
    for name in ("00000-a.parquet", "00001-b.parquet"):
        (work / name).write_bytes(name.encode())
        open_store(DATA).push_file(work / name)
    bucket.memory.put("data/assets/group/value.partial/deeper/c", b"of nobody")
    move_to("b")
    work = manage(kind).resume_work(KEY)
    assert {file.name: file.read_bytes().decode() for file in work.iterdir()} == {
        "00000-a.parquet": "00000-a.parquet",
        "00001-b.parquet": "00001-b.parquet",
    }
    assert open_store(DATA).list_work() == []
    monkeypatch.setattr(object_store, "_AT_WORK", timedelta())
    assert open_store(DATA).list_work() == ["assets/group/value.partial"]
    assert write(kind, 0) == ""
    assert not work.exists()
    assert list(bucket.list_names()) == ["assets/group/value.parquet"]
    assert open_store(DATA).list_work() == []


def test_a_shard_that_a_killed_machine_began_is_continued_by_another(bucket, move_to, tmp_path):
    kind, coco = KINDS["features"], write_coco(tmp_path / "train2014.zip", PHOTOS)
    whole, _ = encode(coco, tmp_path / "elsewhere.partial")

    def push_and_die(file) -> None:
        open_store(DATA).push_file(file)
        if len(bucket.list_names()) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode(coco, manage(kind).resume_work(KEY), on_saved=push_and_die)
    move_to("b")
    features, encoder = encode(coco, manage(kind).resume_work(KEY), on_saved=open_store(DATA).push_file)
    assert encoder.images == len(PHOTOS) - 16
    assert features.hash() == whole.hash()
    manage(kind).handle_output(dg.build_output_context(asset_key=KEY), features)
    assert [*bucket.list_names()] == ["assets/group/value.parquet"]


def test_a_release_is_compared_with_what_it_describes(bucket, move_to):
    kind = KINDS["croissant"]
    assert write(kind, 0) == ""
    open_store(DATA).push_file(open_store(DATA).folder / "described.csv")
    move_to("b")
    assert manage(kind).verify(KEY).unchanged
    bucket.memory.put("data/described.csv", b"y")
    assert manage(kind).verify(KEY).changed == ["described.csv"]
    bucket.memory.delete("data/described.csv")
    move_to("c")
    assert manage(kind).verify(KEY).missing == ["described.csv"]


def test_a_release_and_its_table_are_replaced_together(bucket, move_to, tmp_path):
    kind = KINDS["croissant"]

    def write_release(seed: int, table: str) -> None:
        value = dataclasses.replace(make(kind, seed), others=("described.csv",))
        (open_store(DATA).folder / "described.csv").write_text(table)
        manage(kind).handle_output(dg.build_output_context(asset_key=KEY), value)

    write_release(0, "x")
    move_to("b").begin(manage(kind).locate(KEY))
    move_to("a")
    write_release(1, "x")
    move_to("b")
    with pytest.raises(dg.Failure, match="Another run has written"):
        write_release(2, "a table of the loser")
    move_to("c")
    assert manage(kind).verify(KEY).unchanged
    assert hash_bytes(b"x") in MANIFESTS[".json"].read(manage(kind).locate(KEY))  # so it is not pruned
    move_to("d")
    assert plan_export(manage(kind), KEY, None).copy_to(tmp_path / "out").copied == 2
    assert (tmp_path / "out/described.csv").read_text() == "x"


def test_what_killed_processes_left_in_the_working_copy_is_removed_after_a_day(bucket):
    store = open_store(DATA)
    for name in ("old", "young"):
        (store.own / "staged" / name).mkdir(parents=True)
    os.utime(store.own / "staged/old", (1, 1))
    with store.stage(store.folder / "value") as staged:
        assert [path.name for path in staged.parents[1].iterdir()] == ["young"]


def test_many_values_are_looked_at_in_one_request(bucket):
    kind = KINDS["tables"]
    assert write(kind, 0) == ""
    for number in range(100):
        bucket.memory.put(f"data/assets/group/{number}.parquet", b"")
    bucket.calls.clear()
    listing = open_store(DATA).list_values()
    keys = [dg.AssetKey(["group", str(number)]) for number in range(110)]
    assert sum(manage(kind).stamp(key, None, listing) is not None for key in keys) == 100
    assert sum(manage(kind).is_there(key, None, listing) for key in keys) == 100
    assert bucket.calls == [("list", "data/assets")]


def test_no_answer_is_an_error_and_no_missing_value(bucket, kind):
    assert write(kind, 0) == ""
    bucket.fails = lambda number: True
    for look in (manage(kind).read, manage(kind).read_previous, manage(kind).exists, manage(kind).stamp):
        with pytest.raises(AddressError, match="the connection was cut"):
            look(KEY)


def test_a_folder_is_opened_as_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert isinstance(open_store(str(tmp_path)), FolderStore)
    assert open_store(str(tmp_path)) is open_store(str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PERVL_SCRATCH", raising=False)
    here, there = (open_store(f"s3://pervl/{name}").folder for name in ("here", "there"))
    assert here.parents[1] == there.parents[1] == tmp_path / "pervl"
    assert here != there
    assert not list(tmp_path.iterdir())
