"""The release of the demo data: found in the graph, complete or in part, read by mlcroissant, verified."""

import fnmatch
import functools
import json
from collections import Counter
from pathlib import Path

import dagster as dg
import mlcroissant as mlc
import polars as pl
import pytest
import yaml

from pervl_assets.cli.status import list_states
from pervl_assets.cli.verification import verify_values
from pervl_assets.core.files import VerifyResult
from pervl_assets.definitions import build_definitions
from pervl_assets.defs.checks import summarize_sums
from pervl_assets.defs.release import (
    CROISSANT_KEY,
    RELEASE_KEYS,
    WHOLE,
    collect_release,
    find_published,
    list_sources,
    valid_croissant,
)
from pervl_assets.defs.resources import Workspace
from pervl_assets.io_managers.training_files import CroissantIOManager
from pervl_assets.testing.runs import explain, list_checks, make_settings, run_assets, run_selection
from pervl_assets.testing.worlds import World
from pervl_assets.trees.ledger import list_files
from pervl_assets_tests.core.samples import photograph

SELECTED = "group:release"
LEARNED = {"repetitions": 1, "training_epochs": 1, "set_encoder_width": 8}


@pytest.fixture(scope="module")
def partial(made_world, tmp_path_factory) -> World:
    """The made world, which has no PerVL-YTVOS, with its release. Read-only."""
    data = made_world.copy_to(tmp_path_factory.mktemp("partial") / "data")
    (data / "assets/inversion/coco_image_features/1-of-2.parquet").unlink()
    return World(data, run_selection(data, SELECTED))


@pytest.fixture(scope="module")
def whole(made_world, tmp_path_factory) -> World:
    """A world in which everything is materialized, with its release. Read-only."""
    data = made_world.copy_to(tmp_path_factory.mktemp("whole") / "data")
    results = run_selection(data, f"group:ytvos or group:evaluation or group:training or {SELECTED}", **LEARNED)
    assert all(result.success for result in results), explain(results[-1])
    return World(data, results)


def read_croissant(world: World) -> dict:
    return json.loads((world.data / "croissant.json").read_text())


@functools.cache
def define() -> dg.Definitions:
    """Return the graph, which is the same for every data folder."""
    return build_definitions(make_settings(Path("nowhere")))


def verify_all(data: Path) -> dict[str, VerifyResult]:
    return {one.name: one.result for one in verify_values(define(), data)}


def evaluate(data: Path) -> dict[str, dg.AssetCheckResult]:
    """Evaluate the checks that do not need a materialization."""
    workspace = Workspace.from_settings(make_settings(data))
    sums = summarize_sums(CROISSANT_KEY, {None: CroissantIOManager(data=str(data)).verify(CROISSANT_KEY)})
    return {"valid": valid_croissant(workspace=workspace), "sums": sums}


def get_whole_check(world: World) -> dg.AssetCheckEvaluation:
    return list_checks(*world.results)[f"release/croissant:{WHOLE}"]


def test_everything_but_the_raw_inputs_is_published():
    defs = define()
    keys = defs.resolve_asset_graph().materializable_asset_keys
    found = {value.key for value in find_published(defs.assets)}
    assert found == {key for key in keys if key.path[0] not in ("raw", "release")}
    assert keys - found >= RELEASE_KEYS
    for key in RELEASE_KEYS:
        assert defs.resolve_asset_graph().get(key).parent_keys == found


def test_sources_of_an_asset_are_its_raw_inputs():
    sources = {value.name: value.sources for value in find_published(define().assets)}
    assert sources["deep_fashion/polar_view"] == ("deep_fashion2_train", "pervl_annotations")
    assert sources["inversion/coco_image_features"] == ("coco_svo_triplets", "coco_train2014")
    assert sources["palavra/openimages_map"] == ("coco_svo_triplets", "openimages_class_descriptions")
    assert {name for names in sources.values() for name in names} <= set(list_sources())


def test_the_whole_release_is_valid_and_complete(whole):
    assert get_whole_check(whole).passed
    assert all(result.passed for result in evaluate(whole.data).values())
    description = read_croissant(whole)
    assert "Incomplete" not in description["description"]
    assert "**Source:**" not in json.dumps(description)  # notes are for asset pages only
    assert {entry["name"] for entry in description["license"]} == {source.licence for source in list_sources().values()}
    (made,) = whole.results[-1].asset_materializations_for_node("release__croissant")
    metadata = made.metadata
    assert metadata["release_files"].value > 1000
    assert metadata["record_sets"].value == len(description["recordSet"])
    assert "CC-BY-NC-SA-4.0" in metadata["licences"].value
    (made,) = whole.results[-1].asset_materializations_for_node("release__data_card")
    assert "| ytvos/retrieval_set | 292 | CC-BY-NC-SA-4.0; terms of YouTube-VOS," in made.metadata["parts"].value
    assert made.metadata["left_out"].value == 0


def test_what_people_read_comes_before_json_on_every_page(whole):
    pages = [
        (event.asset_key, [*event.materialization.metadata])
        for result in whole.results
        for event in result.all_events
        if event.is_step_materialization
    ]
    assert len(pages) > 40
    late = [key for key, names in pages if not names.index("size") < names.index("bytes") < names.index("settings")]
    assert late == []


def test_the_data_cards_name_every_table_and_every_image_of_the_views(whole):
    named = set()
    for folder in ("", "views/imagefolder/", "views/imagefolder/ytvos/", "views/imagefolder/deep_fashion/"):
        matter = yaml.safe_load((whole.data / folder / "README.md").read_text().split("---\n")[1])
        files = [one["path"] for config in matter["configs"] for one in config["data_files"]]
        patterns = [path for paths in files for path in (paths if isinstance(paths, list) else [paths])]
        found = [
            {f"{folder}{file}" for file in fnmatch.filter(list_files(whole.data / folder), pattern)}
            for pattern in patterns
        ]
        assert all(found), folder
        assert sum(map(len, found)) == len(set().union(*found)), "no file is in two splits"
        named |= set().union(*found)
    managers = {"TableIOManager", "FeaturesIOManager"}
    tables = [
        value.manager(data=str(whole.data)).locate(value.key, partition)
        for value in find_published(define().assets)
        for partition in value.partitions
        if value.manager.__name__ in managers
    ]
    assert len(tables) > 40
    expected = {file.relative_to(whole.data).as_posix() for file in tables if pl.read_parquet(file).height}
    views = {f"views/imagefolder/{file}" for file in list_files(whole.data / "views/imagefolder")}
    assert named == expected | {file for file in views if not file.endswith(".md")}


def test_a_changed_card_is_reported(whole, tmp_path):
    data = whole.copy_to(tmp_path / "data")
    for name in ("LICENSE.md", "views/imagefolder/ytvos/README.md"):
        (data / name).write_text("mine")
    assert verify_all(data)["release/data_card"].changed == ["LICENSE.md", "views/imagefolder/ytvos/README.md"]


def test_file_sets_select_the_files_of_the_ledgers(whole):
    data, description = whole.data, read_croissant(whole)
    everything = list_files(data)
    named = Counter(node["contentUrl"] for node in description["distribution"] if "contentUrl" in node)
    for node in description["distribution"]:
        if node["@type"] == "cr:FileSet" and "image/" in str(node["encodingFormat"]):
            includes = node["includes"] if isinstance(node["includes"], list) else [node["includes"]]
            named.update(file for file in everything if any(fnmatch.fnmatchcase(file, glob) for glob in includes))
    ledgers = [path for path in (data / "assets").rglob("*.parquet") if "root" in pl.read_parquet_metadata(path)]
    assert len(ledgers) > 8
    written = {
        f"{pl.read_parquet_metadata(path)['root']}/{file}"
        for path in ledgers
        for file in pl.read_parquet(path).filter(status="written")["path"]
    }
    assert written <= set(named)
    assert max(named.values()) == 1  # no file belongs to two sets


@pytest.fixture(scope="module")
def records(whole) -> dict[str, list[dict]]:
    """The records of every record set, as mlcroissant reads them."""
    dataset = mlc.Dataset(jsonld=str(whole.data / "croissant.json"))
    return {node.id: [*dataset.records(node.id)] for node in dataset.metadata.record_sets}


def test_every_record_set_is_read(whole, records):
    """One record per row of tables and features, and one per image."""
    counts = {name: len(rows) for name, rows in records.items()}
    for name in ("ytvos/concepts", "deep_fashion/captions", "inversion/openimages_matches"):
        assert counts[name] == pl.read_parquet(whole.data / f"assets/{name}.parquet").height > 0
    shards = (whole.data / "assets/inversion/coco_image_features").glob("*.parquet")
    assert counts["inversion/coco_image_features"] == sum(pl.read_parquet(path).height for path in shards)
    ledger = pl.read_parquet(whole.data / "assets/ytvos/fsl_seg.parquet")
    for rule in ("few_shot_crop", "evaluation_frame", "evaluation_mask"):
        assert counts[f"ytvos/fsl_seg/{rule}"] == ledger.filter(rule=rule, status="written").height > 0


def test_images_have_the_labels_of_the_tables(whole, records):
    """Caption, class, concept and split of every image record equal those of the annotation tables."""
    tables = {
        name: pl.read_parquet(whole.data / f"assets/{name}.parquet")
        for name in ("ytvos/concepts", "deep_fashion/captions", "deep_fashion/few_shot_split")
    }
    concepts = {
        concept: (class_name, split, caption)
        for concept, class_name, split, caption in tables["ytvos/concepts"]
        .select("concept", "class_name", "split", "caption")
        .iter_rows()
    }
    captions = dict(
        tables["deep_fashion/captions"].filter(caption_set="detailed").select("image", "caption").iter_rows()
    )
    items = {
        pair: labels
        for pair, *labels in tables["deep_fashion/few_shot_split"].select("pair_id", "class_name", "split").iter_rows()
    }
    names = ("ytvos/fsl_seg/few_shot_crop", "ytvos/fsl_seg/retrieval_crop", "ytvos/retrieval_set/few_shot_copy")
    for name in (*names, "deep_fashion/personalized/evaluation_copy", "deep_fashion/personalized/few_shot_copy"):
        rows = [
            {
                field.rpartition("/")[2]: value.decode() if isinstance(value, bytes) else value
                for field, value in row.items()
            }
            for row in records[name]
        ]
        assert rows
        for row in rows:
            if name.startswith("ytvos"):
                labels = concepts[row["concept"]]
            else:
                labels = (*items[row["concept"]], captions.get(Path(row["path"]).name))
            assert (row["class_name"], row["split"], row["caption"]) == labels
            assert row["image"].width > 0
            assert (whole.data / row["path"]).is_file()
        if not name.endswith("personalized/few_shot_copy"):
            assert all(row["caption"] for row in rows)


def test_a_second_run_rewrites_nothing(whole):
    before = photograph(whole.data)
    (again,) = run_selection(whole.data, SELECTED, **LEARNED)
    assert again.success
    assert photograph(whole.data) == before


def test_a_changed_file_is_reported(whole, tmp_path):
    data = whole.copy_to(tmp_path / "data")
    file = data / "assets/inversion/coco_object_classes.parquet"
    content = bytearray(file.read_bytes())
    content[10] ^= 1
    release = CroissantIOManager(data=str(data))
    stamp = release.stamp(CROISSANT_KEY)
    file.write_bytes(content)
    assert release.stamp(CROISSANT_KEY) != stamp, "the release is outdated"
    results = evaluate(data)
    assert not results["sums"].passed
    assert "1 changed: assets/inversion/coco_object_classes.parquet" in results["sums"].description
    assert results["valid"].passed
    (data / "croissant.json").write_text('{"distribution": []}')
    assert evaluate(data)["valid"].severity == dg.AssetCheckSeverity.ERROR
    (data / "croissant.json").unlink()
    for result in evaluate(data).values():
        assert not result.passed


def test_results_not_materialized_are_left_out_and_named(partial):
    assert all(result.success for result in partial.results), explain(partial.results[-1])
    assert all(result.passed for result in evaluate(partial.data).values())
    missing = get_whole_check(partial)
    assert not missing.passed
    assert missing.severity == dg.AssetCheckSeverity.WARN
    settings = make_settings(partial.data)
    absent = collect_release(find_published(define().assets), Workspace.from_settings(settings)).absent
    assert {"inversion/coco_image_features [1-of-2]", "ytvos/captions", "evaluation/results"} <= set(absent)
    assert missing.description.startswith(f"{len(absent)} results left out, not materialized: evaluation/")
    description = read_croissant(partial)
    assert "Incomplete" in description["description"]
    names = {node["@id"] for node in description["recordSet"]}
    assert not any(name.startswith("ytvos/") for name in names)
    assert {"deep_fashion/captions", "inversion/coco_image_features"} <= names
    (made,) = partial.results[-1].asset_materializations_for_node("release__data_card")
    assert made.metadata["left_out"].value == len(absent)
    assert "\n| evaluation/" in made.metadata["absent"].value


def test_a_removed_file_is_left_out(made_world, tmp_path):
    data = made_world.copy_to(tmp_path / "data")
    (data / "inversion_model_train_data/txt_for_training/obj_names_only.npy").unlink()
    (data / "views/polar").rename(tmp_path / "elsewhere")
    settings = make_settings(data)
    release = collect_release(find_published(define().assets), Workspace.from_settings(settings))
    assert {"palavra/object_names", "deep_fashion/polar_view"} <= set(release.absent)


def test_nothing_materialized_is_an_error_with_advice(tmp_path):
    result = run_assets(tmp_path, dg.AssetSelection.assets(CROISSANT_KEY))
    assert "There is nothing to release" in explain(result)
    assert not (tmp_path / "croissant.json").exists()


def test_verify_covers_the_release(whole, partial, tmp_path):
    for world in (whole, partial):
        results = verify_all(world.data)
        assert results["release/croissant"].unchanged
        assert results["release/croissant"].files > 10  # and the files that it describes
        assert results["ytvos/captions"].unchanged  # not missing where the release leaves it out
    data = whole.copy_to(tmp_path / "data")
    manifest = json.loads((data / "assets/release/croissant.json").read_text())
    assert [one["file"] for one in manifest["others"]] == ["assets/release/images.parquet"]
    (data / "croissant.json").write_text("{}")
    assert verify_all(data)["release/croissant"].changed == ["croissant.json"]


def test_status_lists_the_release(tmp_path, instance):
    states = {state.asset: state.state for state in list_states(build_definitions(make_settings(tmp_path)), instance)}
    assert states["release/croissant"] == "missing"
