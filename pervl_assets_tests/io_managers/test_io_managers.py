"""One suite over all IO managers: paths, checked reads, verification and stamps of every kind of value."""

import dataclasses
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest

from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.archives.members import open_members
from pervl_assets.clip.features import Features
from pervl_assets.clip.passport import EmbeddingPassport
from pervl_assets.core.errors import ArchiveError, MissingInputError, SchemaError
from pervl_assets.core.files import VerifyResult, hash_bytes, write_bytes_atomically
from pervl_assets.core.tables import CONTENT_SHA256, Column, TableSchema, hash_frame, write_hashed
from pervl_assets.io_managers import find_io_managers
from pervl_assets.io_managers.base import Partitions, PervlIOManager
from pervl_assets.io_managers.features import FeaturesIOManager
from pervl_assets.io_managers.metadata import STAMP, show_errors
from pervl_assets.io_managers.tables import TableIOManager, declare_columns
from pervl_assets.io_managers.training_files import TrainingFile, WrittenFile
from pervl_assets.testing.runs import explain
from pervl_assets.training.set_encoder import TrainedSetEncoder
from pervl_assets.trees.build import build_tree
from pervl_assets.trees.ledger import FolderTree
from pervl_assets_tests.core.samples import plan_copies, write_zip
from pervl_assets_tests.training.test_set_encoder import make_set_encoder

SCHEMA = TableSchema((Column("name", pl.String, "a name"), Column("count", pl.UInt32, "how many")))
KEY = dg.AssetKey(["group", "value"])
PASSPORT = EmbeddingPassport("m", "a", "w", "p", "fp32", "cpu", 3, "2", "3", "13")


def make_table(data: Path, seed: int) -> pl.DataFrame:
    return pl.DataFrame({"name": ["a", "b"], "count": [seed, 2]}, schema=SCHEMA.to_polars())


def make_features(data: Path, seed: int) -> Features:
    vectors = np.random.default_rng(seed).standard_normal((2, 3)).astype(np.float32)
    return Features(["10 ", "9 "], vectors, PASSPORT, [1, 2])


def make_weights(data: Path, seed: int) -> TrainedSetEncoder:
    return make_set_encoder(seed=seed)


def make_tree(data: Path, seed: int) -> FolderTree:
    names = ["a.jpg", "b.jpg"]
    path = write_zip(data / "in.zip", {name: f"{name} {seed}".encode() for name in names})
    with open_members(RawArchive(path, identify(path))) as members:
        return build_tree(plan_copies(names), members, data / "tree")


def make_archive(data: Path, seed: int) -> RawArchive:
    path = write_zip(data / "in.zip", {"a": b"x" * (seed + 1)})
    return RawArchive(path, identify(path), "", "SOME_PASSWORD")


def make_training_file(data: Path, seed: int) -> TrainingFile:
    return TrainingFile("train/names.npy", lambda target: write_bytes_atomically(target, str(seed).encode()))


def make_croissant(data: Path, seed: int) -> TrainingFile:
    write_bytes_atomically(data / "described.csv", b"x")
    node = {"contentUrl": "described.csv", "sha256": hash_bytes(b"x"), "contentSize": "1 B", "seed": seed}
    text = json.dumps({"distribution": [node, {"contentUrl": "a set of files"}]}).encode()
    return TrainingFile("croissant.json", lambda target: write_bytes_atomically(target, text))


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of value.

    Attributes:
        name: Key of its IO manager.
        make: Makes one; equal for equal seeds.
        show: Returns the content of one, for comparison.
        files: Its files beside the one below `assets/`.
        metadata: Of its asset.
    """

    name: str
    make: Callable[[Path, int], Any]
    show: Callable[[Any], Any] = repr
    files: tuple[str, ...] = ()
    metadata: dict = dataclasses.field(default_factory=dict)

    def manage(self, data: Path) -> PervlIOManager:
        return find_io_managers()[self.name](data=str(data))


def show_tree(tree: FolderTree) -> Any:
    return tree.root, tree.ledger.to_dicts()


KINDS = {
    kind.name: kind
    for kind in (
        Kind("tables", make_table, pl.DataFrame.to_dicts, metadata=declare_columns(SCHEMA)),
        Kind("features", make_features, Features.hash),
        Kind("weights", make_weights, TrainedSetEncoder.hash),
        Kind("trees", make_tree, show_tree, ("tree/class/a.jpg", "tree/class/b.jpg")),
        Kind("raw_archives", make_archive, repr, ("in.zip",)),
        Kind("training_files", make_training_file, files=("train/names.npy",)),
        Kind("croissant", make_croissant, files=("croissant.json",)),
    )
}


@pytest.fixture(params=KINDS)
def kind(request) -> Kind:
    return KINDS[request.param]


def store_and_load(kind: Kind, value: Any, data: Path) -> tuple[Any, dg.ExecuteInProcessResult]:
    """Write a value as an asset's, and load it as another asset's input, with the real IO manager."""
    loaded = []

    @dg.asset(key=KEY, io_manager_key="manager", metadata=kind.metadata)
    def producer() -> Any:
        return value

    @dg.asset(ins={"value": dg.AssetIn(KEY)})
    def consumer(value: Any) -> None:
        loaded.append(value)

    resources = {"manager": kind.manage(data)}
    result = dg.materialize([producer, consumer], resources=resources, raise_on_error=False)
    return (loaded[0] if loaded else None), result


@pytest.fixture
def stored(kind, tmp_path) -> PervlIOManager:
    """The IO manager of a kind, with a value of it on disk."""
    _, result = store_and_load(kind, kind.make(tmp_path, 0), tmp_path)
    assert result.success, explain(result)
    return kind.manage(tmp_path)


def corrupt(path: Path) -> None:
    """Turn over a bit in the middle, and keep size and time."""
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_every_kind_is_found_by_itself_and_tested_here():
    managers = find_io_managers()
    assert set(managers) == {*KINDS, "image_lists"}  # which reads a table, and stores none
    kinds = {manager.kind for manager in managers.values()}
    assert kinds == {"table", "features", "weights", "tree", "raw_archive", "file"}


def test_partitions_are_read_when_they_are_asked_for():
    read = []
    values = Partitions(["a", "b"], lambda name: read.append(name) or name.upper())
    assert (len(values), [*values], "c" in values, read) == (2, ["a", "b"], False, [])
    assert dict(values) == {"a": "A", "b": "B"}
    assert read == ["a", "b"]


def test_round_trip(kind, tmp_path):
    value = kind.make(tmp_path, 0)
    loaded, result = store_and_load(kind, value, tmp_path)
    assert result.success, explain(result)
    if isinstance(loaded, WrittenFile):
        assert loaded == WrittenFile(value.file, (tmp_path / value.file).stat().st_size, loaded.sha256)
    else:
        assert kind.show(loaded) == kind.show(value)
    assert kind.manage(tmp_path).locate(KEY).is_file()


def test_an_unchanged_value_rewrites_nothing_and_a_changed_one_does(kind, stored, tmp_path):
    path = stored.locate(KEY)
    before = path.stat().st_mtime_ns, path.read_bytes(), stored.stamp(KEY)
    store_and_load(kind, kind.make(tmp_path, 0), tmp_path)
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before[:2]
    assert kind.name in ("raw_archives", "trees") or stored.stamp(KEY) == before[2]  # whose files are made again here
    store_and_load(kind, kind.make(tmp_path, 1), tmp_path)
    assert path.read_bytes() != before[1]
    assert stored.stamp(KEY) != before[2]


def test_nothing_unfinished_is_left(stored, tmp_path):
    assert not [path for path in tmp_path.rglob("*") if ".partial" in path.name]


def test_a_value_that_is_not_there_says_what_to_materialize(kind, tmp_path):
    manager = kind.manage(tmp_path)
    with pytest.raises(MissingInputError, match="The value of group/value is not on disk") as raised:
        manager.read(KEY)
    assert "pervl materialize group/value" in raised.value.advice
    assert (manager.read_previous(KEY), manager.stamp(KEY), manager.exists(KEY)) == (None, None, False)
    assert manager.verify(KEY).files == 0


def test_a_damaged_value_is_refused_and_never_taken_for_an_earlier_one(stored, caplog):
    path = stored.locate(KEY)
    assert stored.read_previous(KEY) is not None
    if path.suffix == ".json":
        path.write_text("{}")
    else:
        path.write_bytes(path.read_bytes()[:-9])
    os.utime(path, ns=(1, 1))
    stamp = stored.stamp(KEY)
    with pytest.raises(SchemaError) as raised:
        stored.read(KEY)
    assert str(path) in raised.value.problem
    assert "Materialize group/value, which makes it again" in raised.value.advice
    assert path.stat().st_mtime_ns > 1  # so that it is outdated
    assert stored.stamp(KEY) is None or stored.stamp(KEY) != stamp
    assert stored.read_previous(KEY) is None
    assert "Made again" in caplog.text
    assert stored.verify(KEY).changed == ["assets/group/value" + stored.extension]


def test_verify_and_stamp_see_every_file(kind, stored, tmp_path):
    assert stored.verify(KEY).unchanged
    assert stored.verify(KEY).files >= 1
    stamps = {stored.stamp(KEY)}
    for name in kind.files:
        content = (tmp_path / name).read_bytes()
        corrupt(tmp_path / name)
        if kind.name != "raw_archives":  # whose card is of its directory
            assert stored.verify(KEY).changed == [name]
        assert stored.stamp(KEY) in stamps  # size and time are the same: bytes are not read
        (tmp_path / name).write_bytes(content)
        stamps.add(stored.stamp(KEY))
    assert stored.verify(KEY).unchanged
    assert len(stamps) == 1 + len(kind.files)
    for name in kind.files:
        (tmp_path / name).unlink()
        assert name in stored.verify(KEY).missing
        assert stored.stamp(KEY) not in stamps
    stored.locate(KEY).unlink()
    assert stored.stamp(KEY) is None


def test_the_stamp_of_what_was_written_is_recorded(kind, tmp_path):
    _, result = store_and_load(kind, kind.make(tmp_path, 0), tmp_path)
    (made,) = result.asset_materializations_for_node("group__value")
    assert made.metadata[STAMP].value == kind.manage(tmp_path).stamp(KEY)
    assert made.metadata[kind.manage(tmp_path).label].value == str(kind.manage(tmp_path).locate(KEY))


def test_a_file_that_a_tree_does_not_know_is_extra(tmp_path):
    store_and_load(KINDS["trees"], make_tree(tmp_path, 0), tmp_path)
    trees = KINDS["trees"].manage(tmp_path)
    before = trees.stamp(KEY)
    (tmp_path / "tree/.hidden").write_bytes(b"")
    assert trees.verify(KEY).extra == ["tree/.hidden"]
    assert trees.stamp(KEY) != before


def test_a_ledger_that_was_edited_is_refused(tmp_path):
    tree = make_tree(tmp_path, 0)
    store_and_load(KINDS["trees"], tree, tmp_path)
    trees = KINDS["trees"].manage(tmp_path)
    recorded = {"root": "tree", CONTENT_SHA256: hash_frame(tree.ledger)}
    edited = tree.ledger.with_columns(path=pl.col("path").reverse())
    others = tree.ledger.drop("recipe")
    for ledger, metadata in (
        (edited, recorded),
        (edited, {"root": "tree"}),
        (others, {"root": "tree", CONTENT_SHA256: hash_frame(others)}),
    ):
        ledger.write_parquet(trees.locate(KEY), metadata=metadata)
        assert trees.read_previous(KEY) is None
        assert trees.verify(KEY).changed == ["assets/group/value.parquet"]


def test_a_manifest_of_another_kind_is_damage(stored):
    path = stored.locate(KEY)
    texts = [
        b"",
        b"[]",
        b"[1]",
        b"NaN",
        b"null",
        b'"a"',
        b"\xff\xfe",
        b"[" * 99_999,
        b'{"bytes": ' + b"9" * 5_000 + b"}",
    ]
    for content in texts:
        path.write_bytes(content)
        with pytest.raises(SchemaError):
            stored.read(KEY)
        assert stored.read_previous(KEY) is None
        assert stored.stamp(KEY) is None or path.suffix != ".json"
        assert stored.verify(KEY).changed == ["assets/group/value" + stored.extension]


def test_a_value_on_a_failing_disk_ends_the_run_and_is_reported(stored, monkeypatch):
    def fail(self: Path, *_: Any) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(self))

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(ArchiveError, match="cannot be read: Input/output error"):
        stored.read(KEY)
    assert stored.verify(KEY).changed == ["assets/group/value" + stored.extension]


def test_an_input_below_the_data_root_is_found_after_a_move_and_in_a_copy(tmp_path):
    kind, here, elsewhere = KINDS["raw_archives"], tmp_path / "here", tmp_path / "elsewhere"
    inside, outside = make_archive(here, 0), make_archive(elsewhere, 0)
    store_and_load(kind, inside, here)
    shutil.copytree(here, tmp_path / "copy")
    inside.path.unlink()
    manager = kind.manage(tmp_path / "copy")
    assert manager.read(KEY).path == tmp_path / "copy/in.zip"
    store_and_load(kind, outside, tmp_path / "copy")
    assert manager.read(KEY).path == outside.path


def test_a_text_file_changed_since_it_was_identified_is_refused_and_outdated(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("one")
    store_and_load(KINDS["raw_archives"], RawArchive(file, identify(file)), tmp_path)
    inputs = KINDS["raw_archives"].manage(tmp_path)
    stamp = inputs.stamp(KEY)
    corrupt(file)
    assert inputs.stamp(KEY) == stamp
    with pytest.raises(MissingInputError, match="has changed: 3 bytes now, 3 bytes when its identity card was taken"):
        inputs.read(KEY)
    assert inputs.stamp(KEY) != stamp


def test_a_name_with_a_pattern_in_it_is_one_file(tmp_path):
    manager, key = TableIOManager(data=str(tmp_path / "a[1]*")), dg.AssetKey("x")
    manager.locate(key).parent.mkdir(parents=True)
    write_hashed(make_table(tmp_path, 0), manager.locate(key))
    assert manager.read(key).height == 2


def test_2_800_files_are_stamped_in_a_twentieth_of_a_second(tmp_path):
    store_and_load(KINDS["trees"], make_tree(tmp_path, 0), tmp_path)
    for folder in range(28):
        (tmp_path / f"tree/{folder}").mkdir()
        for name in range(100):
            os.mknod(tmp_path / f"tree/{folder}/{name}.jpg")
    trees = KINDS["trees"].manage(tmp_path)
    seconds = []
    for _ in range(5):
        start = time.process_time()
        trees.stamp(KEY)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.05  # of 28,000 in half a second


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pl.DataFrame({"name": ["a"]}), "missing: count (UInt32)"),
        (pl.DataFrame({"name": ["a"], "count": [1]}), "wrong type: count is Int64, declared UInt32"),
    ],
)
def test_a_table_that_breaks_its_schema_is_not_written(tmp_path, frame, words):
    store_and_load(KINDS["tables"], make_table(tmp_path, 0), tmp_path)
    path = KINDS["tables"].manage(tmp_path).locate(KEY)
    before = path.read_bytes()
    _, result = store_and_load(KINDS["tables"], frame, tmp_path)
    assert not result.success
    assert words in explain(result)
    assert SchemaError.__name__ in explain(result)
    assert path.read_bytes() == before


def test_a_table_without_declared_columns_is_refused(tmp_path):
    kind = dataclasses.replace(KINDS["tables"], metadata={})
    _, result = store_and_load(kind, make_table(tmp_path, 0), tmp_path)
    assert "declares no columns" in explain(result)


def test_an_archive_replaced_while_it_is_identified_is_refused(tmp_path):
    archive = make_archive(tmp_path, 0)
    stat = archive.path.stat()
    write_zip(archive.path, {"a": b"y"})
    os.utime(archive.path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert archive.path.stat().st_size == stat.st_size
    _, result = store_and_load(KINDS["raw_archives"], archive, tmp_path)
    assert "was replaced or changed while its identity card was taken" in explain(result)


def test_an_archive_that_changed_since_is_noticed(tmp_path):
    archive = make_archive(tmp_path, 0)

    @dg.asset(key=KEY, io_manager_key="manager")
    def producer() -> Any:
        return archive

    @dg.asset(ins={"value": dg.AssetIn(KEY)})
    def consumer(value: Any) -> None:
        pass

    resources = {"manager": KINDS["raw_archives"].manage(tmp_path)}
    instance = dg.DagsterInstance.ephemeral()
    assert dg.materialize([producer], resources=resources, instance=instance).success

    def load() -> str:
        result = dg.materialize(
            [producer, consumer], selection=[consumer], resources=resources, instance=instance, raise_on_error=False
        )
        return explain(result)

    assert load() == ""
    make_archive(tmp_path, 5)
    assert "has changed: " in load()
    archive.path.unlink()
    assert "is gone" in load()
    assert MissingInputError.__name__ in load()


@pytest.mark.parametrize("count", [1, 2])
def test_partitions_come_as_a_mapping_however_many_there_are(tmp_path, count):
    names = [f"{shard}-of-{count}" for shard in range(count)]
    shards = dg.StaticPartitionsDefinition(names)
    values = {name: make_features(tmp_path, seed) for seed, name in enumerate(names)}
    manager, loaded, single = FeaturesIOManager(data=str(tmp_path)), {}, {}

    @dg.asset(key=KEY, io_manager_key="manager", partitions_def=shards)
    def producer(context: dg.AssetExecutionContext) -> Features:
        manager.resume_work(KEY, context.partition_key).mkdir(parents=True)
        return values[context.partition_key]

    @dg.asset(ins={"value": dg.AssetIn(KEY)})
    def consumer(value: Mapping[str, Features]) -> None:
        loaded.update(value)

    @dg.asset(ins={"value": dg.AssetIn(KEY)}, partitions_def=shards)
    def same(context: dg.AssetExecutionContext, value: Any) -> None:
        single[context.partition_key] = value

    options = {"resources": {"manager": manager}, "instance": dg.DagsterInstance.ephemeral()}
    for name in names:
        assert dg.materialize([producer, same], partition_key=name, **options).success
    assert dg.materialize([producer, consumer], selection=[consumer], **options).success
    hashes = {name: value.hash() for name, value in values.items()}
    assert {name: value.hash() for name, value in loaded.items()} == hashes
    assert {name: value.hash() for name, value in single.items()} == hashes
    assert not list(tmp_path.rglob("*.partial"))


def test_a_value_that_a_run_replaces_meanwhile_is_compared_again(tmp_path, monkeypatch):
    manager, results = TableIOManager(data=str(tmp_path)), []
    path = manager.locate(KEY)
    write_hashed(make_table(tmp_path, 1), path)

    def compare(self, path):
        results.append(VerifyResult(1, changed=[] if results else ["value"]))
        write_hashed(make_table(tmp_path, 2), path)
        return results[-1]

    monkeypatch.setattr(TableIOManager, "compare", compare)
    assert manager.verify(KEY).unchanged
    assert len(results) == 2


def test_a_training_file_and_its_manifest_are_written_by_one_run_at_a_time(tmp_path):
    manager = find_io_managers()["training_files"](data=str(tmp_path))
    context = dg.build_output_context(asset_key=KEY)

    def write_in_between(target):
        with pytest.raises(dg.Failure, match="Another run is writing"):
            manager.handle_output(context, make_training_file(tmp_path, 2))
        write_bytes_atomically(target, b"1")

    manager.handle_output(context, TrainingFile("train/names.npy", write_in_between))
    assert manager.verify(KEY).unchanged


def test_an_error_of_the_system_in_a_step_is_a_failure_with_advice():
    with pytest.raises(dg.Failure, match=r"kitten cannot be read or written: Stale.*\n.*What to do"), show_errors():
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), "kitten")
