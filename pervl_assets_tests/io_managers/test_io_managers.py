"""One suite over all IO managers: what every kind of value must do on its way to disk and back."""

import dataclasses
from collections.abc import Callable
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
from pervl_assets.core.errors import MissingInputError, SchemaError
from pervl_assets.core.tables import Column, TableSchema
from pervl_assets.io_managers import (
    FeaturesIOManager,
    RawArchiveIOManager,
    TableIOManager,
    TrainingFileIOManager,
    TreeIOManager,
)
from pervl_assets.io_managers.base import locate_value
from pervl_assets.io_managers.features import locate_chunks
from pervl_assets.io_managers.tables import declare_columns
from pervl_assets.io_managers.training_files import TrainingFile, WrittenFile
from pervl_assets.testing.runs import explain
from pervl_assets.trees.build import build_tree
from pervl_assets.trees.ledger import FolderTree
from pervl_assets_tests.core.samples import plan_copies, write_zip

SCHEMA = TableSchema((Column("name", pl.String, "a name"), Column("count", pl.UInt32, "how many")))
KEY = dg.AssetKey(["group", "value"])
PASSPORT = EmbeddingPassport("m", "a", "w", "p", "fp32", "cpu", 3, "2", "3", "13")


def make_table(data: Path, seed: int) -> pl.DataFrame:
    return pl.DataFrame({"name": ["a", "b"], "count": [seed, 2]}, schema=SCHEMA.to_polars())


def make_features(data: Path, seed: int) -> Features:
    vectors = np.random.default_rng(seed).standard_normal((2, 3)).astype(np.float32)
    return Features(["10 ", "9 "], vectors, PASSPORT, [1, 2])


def make_tree(data: Path, seed: int) -> FolderTree:
    names = ["a.jpg", "b.jpg"]
    path = write_zip(data / "in.zip", {name: f"{name} {seed}".encode() for name in names})
    with open_members(RawArchive(path, identify(path))) as members:
        return build_tree(plan_copies(names), members, data / "tree")


def make_archive(data: Path, seed: int) -> RawArchive:
    path = write_zip(data / "in.zip", {"a": b"x" * (seed + 1)})
    return RawArchive(path, identify(path), "", "SOME_PASSWORD")


def make_training_file(data: Path, seed: int) -> TrainingFile:
    def write(target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.is_file() or target.read_text() != str(seed):
            target.write_text(str(seed))

    return TrainingFile("train/names.npy", write)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of value: its IO manager, a way to make one, and what two of them have in common when equal."""

    manager: type
    extension: str
    make: Callable[[Path, int], Any]
    show: Callable[[Any], Any]
    metadata: dict = dataclasses.field(default_factory=dict)


KINDS = {
    "table": Kind(TableIOManager, ".parquet", make_table, pl.DataFrame.to_dicts, declare_columns(SCHEMA)),
    "features": Kind(FeaturesIOManager, ".parquet", make_features, Features.hash),
    "tree": Kind(TreeIOManager, ".parquet", make_tree, lambda tree: (tree.root, tree.staged, tree.ledger.to_dicts())),
    "archive": Kind(RawArchiveIOManager, ".json", make_archive, lambda archive: archive),
    "training_file": Kind(TrainingFileIOManager, ".json", make_training_file, lambda value: value),
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

    result = dg.materialize(
        [producer, consumer], resources={"manager": kind.manager(data=str(data))}, raise_on_error=False
    )
    return (loaded[0] if loaded else None), result


def test_round_trip(kind, tmp_path):
    value = kind.make(tmp_path, 0)
    loaded, result = store_and_load(kind, value, tmp_path)
    assert result.success, explain(result)
    if isinstance(loaded, WrittenFile):
        assert loaded == WrittenFile("train/names.npy", 1, loaded.sha256)
    else:
        expected = dataclasses.replace(value, staged=None) if isinstance(value, FolderTree) else value
        assert kind.show(loaded) == kind.show(expected)
    assert locate_value(tmp_path, KEY.path, kind.extension).is_file()


def test_an_unchanged_value_rewrites_nothing_and_a_changed_one_does(kind, tmp_path):
    store_and_load(kind, kind.make(tmp_path, 0), tmp_path)
    path = locate_value(tmp_path, KEY.path, kind.extension)
    before = path.stat().st_mtime_ns, path.read_bytes()
    store_and_load(kind, kind.make(tmp_path, 0), tmp_path)
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    store_and_load(kind, kind.make(tmp_path, 1), tmp_path)
    assert path.read_bytes() != before[1]


def test_nothing_unfinished_is_left(kind, tmp_path):
    store_and_load(kind, kind.make(tmp_path, 0), tmp_path)
    assert not [path for path in tmp_path.rglob("*") if ".partial" in path.name]


def test_a_value_that_is_not_there_says_what_to_materialize(kind, tmp_path):
    @dg.asset(ins={"value": dg.AssetIn(KEY)})
    def consumer(value: Any) -> None:
        raise AssertionError("must not run")

    source = dg.AssetSpec(KEY).with_io_manager_key("manager")
    result = dg.materialize(
        [consumer, source],
        resources={"manager": kind.manager(data=str(tmp_path))},
        selection=[consumer],
        raise_on_error=False,
    )
    assert not result.success
    assert "The value of group/value is not on disk" in explain(result)
    assert """pervl materialize --select 'key:"group/value"'""" in explain(result)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pl.DataFrame({"name": ["a"]}), "missing: count (UInt32)"),
        (pl.DataFrame({"name": ["a"], "count": [1]}), "wrong type: count is Int64, declared UInt32"),
    ],
)
def test_a_table_that_breaks_its_schema_is_not_written(tmp_path, frame, words):
    store_and_load(KINDS["table"], make_table(tmp_path, 0), tmp_path)
    path = locate_value(tmp_path, KEY.path, ".parquet")
    before = path.read_bytes()
    _, result = store_and_load(KINDS["table"], frame, tmp_path)
    assert not result.success
    assert words in explain(result)
    assert SchemaError.__name__ in explain(result)
    assert path.read_bytes() == before


def test_a_table_without_declared_columns_is_refused(tmp_path):
    kind = dataclasses.replace(KINDS["table"], metadata={})
    _, result = store_and_load(kind, make_table(tmp_path, 0), tmp_path)
    assert "declares no columns" in explain(result)


def test_an_archive_that_changed_since_is_noticed(tmp_path):
    archive = make_archive(tmp_path, 0)

    @dg.asset(key=KEY, io_manager_key="manager")
    def producer() -> Any:
        return archive

    @dg.asset(ins={"value": dg.AssetIn(KEY)})
    def consumer(value: Any) -> None:
        pass

    resources = {"manager": RawArchiveIOManager(data=str(tmp_path))}
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


def test_features_of_several_partitions(tmp_path):
    shards = dg.StaticPartitionsDefinition(["0-of-2", "1-of-2"])
    values = {"0-of-2": make_features(tmp_path, 0), "1-of-2": make_features(tmp_path, 1)}
    loaded = {}

    @dg.asset(key=KEY, io_manager_key="manager", partitions_def=shards)
    def producer(context: dg.AssetExecutionContext) -> Features:
        locate_chunks(locate_value(tmp_path, KEY.path, ".parquet", context.partition_key)).mkdir(parents=True)
        return values[context.partition_key]

    @dg.asset(ins={"value": dg.AssetIn(KEY)})
    def consumer(value: dict[str, Features]) -> None:
        loaded.update(value)

    options = {
        "resources": {"manager": FeaturesIOManager(data=str(tmp_path))},
        "instance": dg.DagsterInstance.ephemeral(),
    }
    for shard in values:
        assert dg.materialize([producer], partition_key=shard, **options).success
    assert dg.materialize([producer, consumer], selection=[consumer], **options).success
    assert {name: value.hash() for name, value in loaded.items()} == {n: v.hash() for n, v in values.items()}
    assert not list(tmp_path.rglob("*.partial"))
