"""The code location as a whole: metadata of every asset, both profiles, the executor, a third benchmark."""

import shutil
import sys
import textwrap
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

import pervl_assets.benchmarks
from pervl_assets.cli.verification import verify_values
from pervl_assets.definitions import build_definitions
from pervl_assets.defs.checks import SUMS_HOLD
from pervl_assets.defs.resources import ANNOTATIONS
from pervl_assets.io_managers import find_io_managers
from pervl_assets.settings import Settings
from pervl_assets.testing.runs import explain, list_checks, make_settings, run_selection
from pervl_assets_tests.core.samples import draw_picture, photograph, save_jpeg, write_zip

GROUPS = {"raw", "ytvos", "deep_fashion", "inversion", "palavra", "release"}
ASSETS = {
    "raw": "pervl_annotations youtube_vos_train deep_fashion2_train coco_train2014 coco_svo_triplets "
    "openimages_class_descriptions",
    "ytvos": "concepts captions fsl_seg retrieval_set",
    "deep_fashion": "captions few_shot_split personalized",
    "inversion": "coco_triplets coco_object_classes coco_object_sentences coco_image_features "
    "coco_class_text_features openimages_classes openimages_text_features openimages_matches",
}


@pytest.fixture(params=["demo", "full"])
def defs(request, tmp_path, monkeypatch) -> dg.Definitions:
    """The definitions of a profile with default settings, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return build_definitions(Settings.from_env({"PERVL_PROFILE": request.param}))


def list_nodes(defs: dg.Definitions) -> dict[str, object]:
    graph = defs.resolve_asset_graph()
    return {key.to_user_string(): graph.get(key) for key in graph.materializable_asset_keys}


def name_io_manager(node) -> str:
    return node.assets_def.get_io_manager_key_for_asset_key(node.key)


def test_loading_reads_and_writes_no_file(defs, tmp_path):
    dg.Definitions.validate_loadable(defs)
    assert list(tmp_path.iterdir()) == []


def test_the_graph_has_every_asset_of_the_design(defs):
    nodes = list_nodes(defs)
    assert {f"{group}/{name}" for group, names in ASSETS.items() for name in names.split()} <= set(nodes)
    assert sum(name.startswith("palavra/") for name in nodes) == 5
    graph = defs.resolve_asset_graph()
    assert not graph.unexecutable_asset_keys  # every input of an asset is an asset of this graph


def test_an_encoder_whose_texts_take_no_tokens_has_baselines_alone(tmp_path):
    settings = make_settings(tmp_path, encoders="ViT-B-16-SigLIP=webli,ViT-L-14-quickgelu=openai")
    graph = build_definitions(settings).resolve_asset_graph()
    names = {key.to_user_string() for key in graph.materializable_asset_keys}
    assert not graph.unexecutable_asset_keys
    assert {f"evaluation/ViT-B-16-SigLIP_webli/{name}" for name in ("results", "ytvos/baseline_scores")} <= names
    taught = {name.partition("/")[2] for name in names if name.startswith("training/")}
    assert {"set_encoder", "ViT-L-14-quickgelu_openai/set_encoder"} <= taught
    assert not [name for name in taught if "SigLIP" in name]


def test_every_asset_has_metadata(defs):
    checks = defs.resolve_asset_graph().asset_check_keys
    for name, node in list_nodes(defs).items():
        assert node.description, name
        assert len(node.description.split()) > 5, name
        assert node.kinds, name
        assert node.owners, name
        assert node.code_version, name
        assert name_io_manager(node) in find_io_managers(), name
        assert dg.AssetCheckKey(node.key, SUMS_HOLD) in checks, name


def test_every_group_is_the_prefix_of_its_keys(defs):
    nodes = list_nodes(defs)
    assert {node.group_name for node in nodes.values()} >= GROUPS
    assert all(node.group_name == node.key.path[0] for node in nodes.values())


def test_only_tables_and_features_declare_described_columns(defs):
    nodes = list_nodes(defs)
    tables = {name for name, node in nodes.items() if name_io_manager(node) in ("tables", "features")}
    assert {"ytvos/concepts", "inversion/coco_malformed_lines", "inversion/coco_image_features"} <= tables
    for name, node in nodes.items():
        schema = node.metadata.get("dagster/column_schema")
        assert (schema is not None) == (name in tables), name
        if schema is not None:
            columns = getattr(schema, "schema", schema).columns
            assert columns
            assert all(column.type and column.description for column in columns), name


def test_every_check_is_described(defs):
    graph = defs.resolve_asset_graph()
    specs = [graph.get_check_spec(key) for key in graph.asset_check_keys]
    assert len(specs) > 10
    assert all(spec.description for spec in specs)


def test_partitions_are_splits_and_shards(defs):
    partitions = {
        name: node.partitions_def.get_partition_keys() for name, node in list_nodes(defs).items() if node.partitions_def
    }
    shards = partitions.pop("inversion/coco_image_features")
    assert len(shards) in (2, 8)
    assert shards == [f"{number}-of-{len(shards)}" for number in range(len(shards))]
    assert partitions.pop("training/set_encoder") in (["1", "2", "3"], ["1", "2", "3", "4", "5"])
    assert {"ytvos/retrieval_set", "deep_fashion/personalized"} <= set(partitions)
    official = [keys for name, keys in partitions.items() if {"ytvos", "deep_fashion"} & set(name.split("/"))]
    assert set(map(tuple, official)) == {("validation", "test")}


@pytest.mark.parametrize(
    ("variable", "executor"), [("in_process", "in_process"), ("multiprocess", "multiprocess"), ("", "in_process")]
)
def test_the_executor_is_the_one_named(variable, executor):
    defs = build_definitions(Settings.from_env({"PERVL_EXECUTOR": variable}))
    assert defs.executor.name == defs.resolve_implicit_global_asset_job_def().executor_def.name == executor


# ---- a third benchmark is one module

PHOTOS = {name: save_jpeg(draw_picture(60, 40, seed)) for seed, name in enumerate(["rex.jpg", "tom.jpg", "other.jpg"])}
PETS = '''
"""PerVL-Pets: a benchmark of one archive, one table and one tree."""

import polars as pl

from pervl_assets.archives.annotations import read_csv
from pervl_assets.archives.inputs import ArchiveSpec
from pervl_assets.benchmarks.benchmark import Benchmark, TableAsset, TreeAsset
from pervl_assets.trees.contact_sheet import SheetRoles
from pervl_assets.core.tables import Column, TableSchema
from pervl_assets.trees.build import RenderTask, Output, Rendered, TreePlan

NAMES = TableSchema((Column("pet", pl.String, "its name"), Column("photo", pl.String, "member of the archive")))


def read_names(folder):
    rows = [(row["pet"], row["photo"]) for _, row in read_csv(folder / "pets.csv", ("pet", "photo"))]
    return pl.DataFrame(rows, schema=NAMES.to_polars(), orient="row")


def plan_portraits(tables, split):
    rows = tables["names"].iter_rows()
    tasks = (RenderTask((p,), (Output(f"{n}/{p}", n, "portrait"),)) for n, p in rows)
    return TreePlan("pets/portraits", tuple(tasks), copy, 1)


def copy(job, blobs):
    yield Rendered(job.outputs[0], blobs[0])


BENCHMARK = Benchmark(
    name="pets",
    title="PerVL-Pets",
    description="Personal pets.",
    archives=(
        ArchiveSpec(
            name="pet_photos",
            title="Photographs of pets",
            description="One photograph per pet.",
            file="pets/photos.zip",
            homepage="https://example.org/pets",
            how_to_get="Ask the owners.",
            licence="theirs",
            disk="1 kB",
        ),
    ),
    tables=(TableAsset("names", "Which pet is on which photograph.", NAMES, read_names),),
    trees=(
        TreeAsset(
            name="portraits",
            description="One folder per pet, with its portrait.",
            splits=(),
            tables=("names",),
            source="pet_photos",
            folder=lambda split: "pets/portraits",
            plan=plan_portraits,
            sheet=SheetRoles(few_shot="portrait", evaluation=()),
            facts={None: {"portrait": 2}},
        ),
    ),
    paper="none",
)
'''


@pytest.fixture
def third_benchmark(tmp_path, monkeypatch) -> Path:
    """Adds a module to the package's path; returns a data folder with its archive and annotations."""
    modules, data = tmp_path / "modules", tmp_path / "data"
    modules.mkdir()
    (modules / "pets.py").write_text(textwrap.dedent(PETS))
    package = pervl_assets.benchmarks
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(modules)])
    write_zip(data / "pets/photos.zip", PHOTOS)
    shutil.copytree(ANNOTATIONS / "demo", data / "annotations")
    (data / "annotations/pets").mkdir()
    (data / "annotations/pets/pets.csv").write_text("pet,photo\nRex,rex.jpg\nTom,tom.jpg\n")
    yield data
    sys.modules.pop("pervl_assets.benchmarks.pets", None)
    vars(package).pop("pets", None)


def test_a_third_benchmark_needs_one_module(third_benchmark):
    data = third_benchmark
    full = {"profile": "full", "annotations": data / "annotations"}
    defs = build_definitions(make_settings(data, **full))
    nodes = list_nodes(defs)
    added = {"raw/pet_photos", "pets/names", "pets/portraits"}
    assert added == set(nodes) - set(list_nodes(build_without(data)))
    assert {node.group_name for node in nodes.values()} >= {*GROUPS, "pets"}

    with dg.DagsterInstance.ephemeral() as instance:
        results = run_selection(data, '+key:"pets/portraits"', instance, **full)
        assert all(result.success for result in results), explain(results[-1])
        checks = list_checks(*results)
        assert all(checks[f"pets/portraits:{name}"].passed for name in ("ledger_adds_up", "official_counts"))
        tree = data / "pets/portraits"
        files = {path.relative_to(tree).as_posix(): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
        assert files == {"Rex/rex.jpg": PHOTOS["rex.jpg"], "Tom/tom.jpg": PHOTOS["tom.jpg"]}
        assert pl.read_parquet(data / "assets/pets/names.parquet").rows() == [("Rex", "rex.jpg"), ("Tom", "tom.jpg")]
        before = photograph(data)
        assert all(result.success for result in run_selection(data, '+key:"pets/portraits"', instance, **full))
        assert photograph(data) == before
    results = {one.name: one.result for one in verify_values(defs, data)}
    assert all(results[name].unchanged and results[name].files for name in added)


def test_inputs_that_the_demo_does_not_generate_must_exist(third_benchmark):
    (found,) = run_selection(third_benchmark, 'key:"raw/pet_photos"')
    assert found.success, explain(found)
    (third_benchmark / "pets/photos.zip").unlink()
    (failed,) = run_selection(third_benchmark, 'key:"raw/pet_photos"')
    assert "MissingInputError" in explain(failed)
    assert "Ask the owners. Put it at" in explain(failed)


def build_without(data: Path) -> dg.Definitions:
    """Return the definitions without the third benchmark."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pervl_assets.benchmarks, "__path__", pervl_assets.benchmarks.__path__[:-1])
        return build_definitions(make_settings(data))
