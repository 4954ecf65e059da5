"""The drift probe and the checks of ids and vectors, as Dagster runs them: alone, and in a run that materializes."""

import dataclasses
import json
import shutil
from functools import lru_cache
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

from pervl_assets.clip import encoder as clip_encoder
from pervl_assets.clip.drift import SAMPLE_SIZE, take_sample
from pervl_assets.clip.features import Features, read_features, write_features
from pervl_assets.clip.merge import merge_features
from pervl_assets.definitions import build_definitions
from pervl_assets.defs.feature_checks import DRIFT_PROBE, IDS_AND_VECTORS
from pervl_assets.demo import TINY_CLIP
from pervl_assets.io_managers.base import locate_value
from pervl_assets.testing.hostile import change_members
from pervl_assets.testing.runs import explain, list_checks, make_settings, run_selection
from pervl_assets.testing.worlds import World
from pervl_assets_tests.defs.plain import COCO, OPENIMAGES, TRIPLETS, name_member
from pervl_assets_tests.inversion.kit import make_tiny_clip

FEW = {"top_objects": 2}
IMAGES = dg.AssetKey(["inversion", "coco_image_features"])
NAMES = dg.AssetKey(["inversion", "openimages_text_features"])
CLASSES = dg.AssetKey(["inversion", "coco_class_text_features"])
SHARDS = ("0-of-2", "1-of-2")


@pytest.fixture(scope="module")
def small_world(synthetic_raw, tmp_path_factory) -> World:
    """A world with features and matches, of few images. Read-only."""
    data = Path(shutil.copytree(synthetic_raw, tmp_path_factory.mktemp("small") / "data"))
    wanted = '+key:"inversion/openimages_matches" or +key:"inversion/coco_image_features"'
    results = run_selection(data, wanted, **FEW)
    assert all(result.success for result in results), [explain(result) for result in results]
    return World(data, results)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("own")


@pytest.fixture
def own_data(small_world, place) -> Path:
    """A copy of the small world, for every test at the same place: the job, which knows it, is resolved once."""
    shutil.rmtree(place / "data", ignore_errors=True)
    return small_world.copy_to(place / "data")


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """The models that were loaded, one entry each time."""
    loaded, load = [], clip_encoder.load_encoder

    def count(model: str, *rest, **more):
        loaded.append(model)
        return load(model, *rest, **more)

    monkeypatch.setattr(clip_encoder, "load_encoder", count)
    monkeypatch.setattr(clip_encoder, "_last", None)
    return loaded


@pytest.fixture(scope="session")
def other_weights(tmp_path_factory) -> Path:
    """A checkpoint of the demo's CLIP with other weights."""
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("weights") / "other.safetensors"
    config = json.loads((TINY_CLIP / "open_clip_config.json").read_text())["model_cfg"]
    kept = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
    clip = {name: value for name, value in config.items() if name in kept}
    clip["text_cfg"] = {name: value for name, value in clip["text_cfg"].items() if not name.startswith("hf_")}
    save_file(make_tiny_clip(clip).state_dict(), path)
    return path


@lru_cache(maxsize=8)
def resolve_job(settings) -> dg.JobDefinition:
    """Return the job of all assets and checks."""
    return build_definitions(settings).resolve_implicit_global_asset_job_def()


def run(data, instance, assets=(), checks=None, tags=None, **changes):
    """Run assets with all their checks, or checks alone, in one run of the real job, as the buttons in the UI do."""
    job = resolve_job(make_settings(data, **{**FEW, **changes}))
    part = job.get_subset(asset_selection=set(assets), asset_check_selection=checks)
    result = part.execute_in_process(instance=instance, tags=tags, raise_on_error=False)
    assert result.success, explain(result)
    return result


def probe(data, instance, key=IMAGES, name=DRIFT_PROBE, **changes) -> dg.AssetCheckEvaluation:
    """Run a check by itself."""
    result = run(data, instance, checks={dg.AssetCheckKey(key, name)}, **changes)
    assert not result.get_asset_materialization_events()
    (evaluation,) = result.get_asset_check_evaluations()
    return evaluation


def materialize(data, instance, key=IMAGES, **changes) -> dg.AssetCheckEvaluation:
    """Materialize features together with their drift probe; return its last result."""
    for tags in [{"dagster/partition": shard} for shard in SHARDS] if key == IMAGES else [None]:
        result = run(data, instance, [key], None, tags, **changes)
    return list_checks(result)[f"{key.to_user_string()}:{DRIFT_PROBE}"]


def locate(data, shard) -> Path:
    return locate_value(data, IMAGES.path, ".parquet", shard)


def change_vectors(path: Path, change, ids=None) -> None:
    """Write features again with `change` applied to the vectors of some ids, or of all."""
    features = read_features(path)
    vectors = features.vectors.copy()
    rows = [row for row, one in enumerate(features.ids) if ids is None or one in ids]
    vectors[rows] = change(vectors[rows])
    write_features(dataclasses.replace(features, vectors=vectors), path)


def sample_of(data) -> list[str]:
    return take_sample(merge_features([read_features(locate(data, shard)) for shard in SHARDS])).ids


# ---- the drift probe by itself


def test_by_itself_it_loads_the_model_and_finds_what_is_stored(own_data, instance, loads):
    found = probe(own_data, instance)
    assert loads == [str(make_settings(own_data).clip_model)]
    assert found.passed, found.description
    assert found.metadata["sample"].value == found.metadata["probed"].value == SAMPLE_SIZE
    assert 0 <= found.metadata["largest_relative_difference"].value < 1e-4
    assert found.metadata["smallest_cosine"].value > 0.9999
    assert found.description.startswith(f"{SAMPLE_SIZE} of a sample of {SAMPLE_SIZE} vectors encoded again")


@pytest.mark.parametrize("key", [NAMES, CLASSES])
def test_names_are_probed_by_themselves_too(own_data, instance, loads, key):
    found = probe(own_data, instance, key)
    assert (len(loads), found.passed) == (1, True), found.description
    assert found.metadata["probed"].value == min(SAMPLE_SIZE, len(set(read_features(_texts(own_data, key)).ids)))


def _texts(data, key) -> Path:
    return locate_value(data, key.path, ".parquet")


def test_other_weights_are_an_error_that_names_them(own_data, instance, other_weights):
    found = probe(own_data, instance, clip_pretrained=str(other_weights))
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert found.metadata["smallest_cosine"].value < 0.99
    assert "The passport (stored / now) differs in weights_sha256" in found.description
    assert "Materialize the features again" in found.description


def test_damaged_vectors_are_an_error(own_data, instance):
    victims = sample_of(own_data)[:2]
    for shard in SHARDS:
        change_vectors(locate(own_data, shard), lambda vectors: -vectors, victims)
    found = probe(own_data, instance)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "The passport is the same" in found.description
    assert all(victim in found.metadata["rows"].value for victim in victims)


def test_noise_passes_and_more_than_noise_is_a_warning(own_data, instance):
    for shard in SHARDS:
        change_vectors(locate(own_data, shard), lambda vectors: vectors * np.float32(1 + 2e-5))
    assert probe(own_data, instance).passed
    for shard in SHARDS:
        change_vectors(locate(own_data, shard), lambda vectors: vectors * np.float32(1 + 1e-3))
    found = probe(own_data, instance)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)


def test_images_that_left_the_archive_are_a_warning(own_data, instance):
    victim = name_member(sample_of(own_data)[0])
    change_members(own_data / COCO, lambda name, content: None if name == victim else content)
    run(own_data, instance, [dg.AssetKey(["raw", "coco_train2014"])])
    found = probe(own_data, instance)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert found.metadata["probed"].value == SAMPLE_SIZE - 1
    assert ": not in the archive" in found.description


def test_an_unreadable_shard_is_an_error_with_advice(own_data, instance, loads):
    locate(own_data, SHARDS[1]).write_bytes(b"damaged")
    for name in (DRIFT_PROBE, IDS_AND_VECTORS):
        found = probe(own_data, instance, name=name)
        assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
        assert f"{locate(own_data, SHARDS[1])} cannot be read as Parquet" in found.description
        assert "Materialize inversion/coco_image_features, which makes it again" in found.description
    assert loads == []


def test_without_features_it_says_so_and_loads_nothing(own_data, instance, loads):
    for shard in SHARDS:
        locate(own_data, shard).unlink()
    _texts(own_data, NAMES).unlink()
    for key in (IMAGES, NAMES):
        found = probe(own_data, instance, key)
        assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
        assert found.description.startswith("nothing is materialized")
    assert loads == []


def test_an_empty_shard_is_no_obstacle(own_data, instance):
    stored = read_features(locate(own_data, SHARDS[0]))
    nothing = np.empty((0, stored.passport.dimension), np.float32)
    write_features(Features([], nothing, stored.passport, []), locate(own_data, SHARDS[0]))
    found = probe(own_data, instance)
    assert found.passed
    assert found.metadata["probed"].value == len(read_features(locate(own_data, SHARDS[1])).ids) > 0


# ---- the drift probe in a run that materializes


def test_a_run_that_materializes_probes_only_what_failed_before(own_data, instance, loads):
    check = materialize(own_data, instance)
    assert (check.passed, loads) == (True, [])
    assert check.description.startswith("The features were materialized in this run. Run this check by itself")
    for shard in SHARDS:  # and now something that only a probe finds
        change_vectors(locate(own_data, shard), lambda vectors: -vectors)
    assert not probe(own_data, instance).passed
    for _ in range(2):
        check = materialize(own_data, instance)
        assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
        assert "The passport is the same" in check.description
    for shard in SHARDS:
        locate(own_data, shard).unlink()
    assert materialize(own_data, instance).passed


def test_what_a_probe_with_another_encoder_found_does_not_stick(own_data, instance, other_weights, loads):
    assert not probe(own_data, instance, clip_pretrained=str(other_weights)).passed
    assert materialize(own_data, instance).passed
    assert materialize(own_data, instance, clip_pretrained=str(other_weights)).passed
    assert probe(own_data, instance, clip_pretrained=str(other_weights)).passed


def test_a_run_reports_how_far_the_vectors_moved_that_it_replaced(own_data, instance, other_weights):
    def read_metadata(**changes) -> dict:
        result = run(own_data, instance, [NAMES], None, **changes)
        (event,) = result.get_asset_materialization_events()
        return event.materialization.metadata

    assert "replaced_vectors" not in read_metadata()
    metadata = read_metadata(clip_pretrained=str(other_weights))
    assert metadata["smallest_cosine"].value < 0.99
    assert "weights_sha256" in metadata["replaced_vectors"].value


def test_names_are_encoded_again_without_a_probe(own_data, instance, loads):
    assert (materialize(own_data, instance, NAMES).passed, loads) == (True, [])
    with (own_data / OPENIMAGES).open("a") as file:
        file.write("/m/0extra,Unicorn named Fluffy\n")
    run_selection(own_data, '+key:"inversion/openimages_classes"', instance, **FEW)
    assert (materialize(own_data, instance, NAMES).passed, len(loads)) == (True, 1)


def test_the_probes_are_tagged_for_the_gpu(tmp_path):
    checks = build_definitions(make_settings(tmp_path)).asset_checks
    probes = {key: check for check in checks for key in check.check_keys}
    for key in (IMAGES, NAMES, CLASSES):
        (op,) = probes[dg.AssetCheckKey(key, DRIFT_PROBE)].node_def.iterate_op_defs()
        assert op.pool == "gpu"
        assert op.tags["pervl/device"] == "cpu"


# ---- further encoders


def test_two_encoders_are_stored_side_by_side(own_data, instance, other_weights, loads):
    before = read_features(locate(own_data, SHARDS[0]))
    few = {**FEW, "encoders": f"{TINY_CLIP}={other_weights}"}
    name = "tiny_clip_other"
    results = run_selection(own_data, f'key:"inversion/{name}/*"', instance, **few)
    assert all(result.success for result in results), explain(*results)
    assert loads == [str(TINY_CLIP)]
    folder = own_data / "assets/inversion" / name
    own = read_features(folder / "coco_image_features" / f"{SHARDS[0]}.parquet")
    assert own.ids == before.ids
    assert own.passport.weights_sha256 != before.passport.weights_sha256
    assert own.passport.preprocessing.startswith("resize 224 bicubic")  # as published, not as upstream
    assert read_features(locate(own_data, SHARDS[0])).hash() == before.hash()
    classes, names = (read_features(folder / f"{key}.parquet") for key in ("coco_class_text_features", NAMES.path[-1]))
    assert own.passport == classes.passport == names.passport
    for key, check in (("coco_image_features", IDS_AND_VECTORS), ("coco_image_features", DRIFT_PROBE)):
        found = probe(own_data, instance, dg.AssetKey(["inversion", name, key]), check, encoders=few["encoders"])
        assert found.passed, found.description


# ---- ids and vectors


def test_ids_and_vectors_belong_together(small_world, instance):
    found = probe(small_world.data, instance, name=IDS_AND_VECTORS)
    assert found.passed
    assert found.metadata["vectors"].value > SAMPLE_SIZE
    assert found.description.endswith("in 2 of 2 shards")


def test_an_image_that_is_in_no_shard_is_an_error(own_data, instance):
    features = read_features(locate(own_data, SHARDS[0]))
    lost = dataclasses.replace(
        features, ids=features.ids[1:], vectors=features.vectors[1:], crc32s=(features.crc32s or [])[1:]
    )
    write_features(lost, locate(own_data, SHARDS[0]))
    found = probe(own_data, instance, name=IDS_AND_VECTORS)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert found.metadata["wrong_ids"].value == 1
    assert f"| 0-of-2 | {features.ids[0]} | has neither vector nor reason |" in found.metadata["rows"].value


def test_a_file_that_was_changed_after_it_was_written_is_an_error(own_data, instance):
    path = locate(own_data, SHARDS[0])
    frame, metadata = pl.read_parquet(path), pl.read_parquet_metadata(path)
    kept = {name: text for name, text in metadata.items() if name.startswith("pervl_")}
    frame.reverse().write_parquet(path, metadata=kept)
    found = probe(own_data, instance, name=IDS_AND_VECTORS)
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "does not hold the features that were written to it" in found.description


def test_text_features_carry_the_check_of_their_names(own_data, instance):
    result = run(own_data, instance, [NAMES])
    check = list_checks(result)["inversion/openimages_text_features:names_and_vectors"]
    assert check.passed
    change_vectors(_texts(own_data, NAMES), lambda vectors: vectors * np.nan, ["Tree"])
    result = run(own_data, instance, [NAMES])
    check = list_checks(result)["inversion/openimages_text_features:names_and_vectors"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "not finite" in check.description


# ---- tables


def test_tables_tell_their_counts(own_data):
    with (own_data / TRIPLETS).open("a") as file:
        line = (own_data / TRIPLETS).read_text().splitlines()[0]
        file.write(f"{line}\n{line}\n")
    with (own_data / OPENIMAGES).open("a") as file:
        file.write("/m/0extra,Tree\n/m/0extra2,Tree\n")
    results = run_selection(own_data, '+key:"inversion/openimages_matches" or +key:"inversion/coco_object_sentences"')
    assert all(result.success for result in results), explain(results[-1])
    checks = list_checks(*results)
    triplets = read(own_data, "coco_triplets")
    found = checks["inversion/coco_triplets:few_duplicates"]
    assert found.passed
    assert found.metadata["duplicates"].value == triplets.height - triplets.drop("line").n_unique() >= 2
    found = checks["inversion/coco_triplets:counts"]
    assert found.passed
    assert found.metadata["triplets"].value == triplets.height
    found = checks["inversion/coco_triplets:no_malformed_lines"]
    assert (found.metadata["quarantined"].value, found.metadata["share"].value) == (0, 0.0)
    assert checks["inversion/coco_object_classes:as_many_as_asked_for"].passed
    assert checks["inversion/coco_object_sentences:counts_add_up"].passed
    found = checks["inversion/openimages_classes:repeated_names"]
    assert found.passed
    assert "Tree" in found.metadata["rows"].value
    assert found.metadata["repeated_names"].value >= 1
    assert checks["inversion/openimages_classes:official_counts"].passed
    matches = read(own_data, "openimages_matches")
    found = checks["inversion/openimages_matches:ties"]
    assert found.passed
    assert found.metadata["ties"].value == matches.filter(pl.col("margin") == 0).height
    (made,) = [
        event.materialization.metadata
        for event in results[-1].get_asset_materialization_events()
        if event.asset_key.path[-1] == "openimages_matches"
    ]
    table = made["by_class"].value.splitlines()
    assert table[0] == "| class | names | highest_margin_name | highest_margin | lowest_margin_name | lowest_margin |"
    assert len(table) == 2 + min(30, matches["class_name"].n_unique())
    name, names, clearest, *_ = (cell.strip() for cell in table[2].strip("|").split("|"))
    largest = matches.filter(class_name=name)
    assert int(names) == largest.height == matches["class_name"].value_counts()["count"].max()
    assert largest.filter(pl.col("margin") == pl.col("margin").max())["name"][0] == clearest


def read(data: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(locate_value(data, ["inversion", name], ".parquet"))


def test_fewer_classes_than_asked_for_are_a_warning(data):
    (*_, result) = run_selection(data, '+key:"inversion/coco_object_classes"', top_objects=5000)
    found = list_checks(result)["inversion/coco_object_classes:as_many_as_asked_for"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert found.description.endswith("classes of 5,000 requested")


def test_another_list_than_the_official_one_is_a_warning_in_the_full_profile(data):
    results = run_selection(data, '+key:"inversion/openimages_classes"', profile="full")
    found = list_checks(*results)["inversion/openimages_classes:official_counts"]
    assert (found.passed, found.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "officially 19,994" in found.description
