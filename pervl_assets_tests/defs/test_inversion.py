"""The inversion assets through `dagster.materialize`, with the real IO managers, on the demo data."""

import zipfile
import zlib
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
import pytest

from pervl_assets.clip import encoder as clip_encoder
from pervl_assets.clip.features import Features, read_features
from pervl_assets.definitions import build_definitions
from pervl_assets.defs.run_results import read_run_result
from pervl_assets.io_managers.base import locate_value
from pervl_assets.testing.hostile import change_members, cut_jpeg
from pervl_assets.testing.runs import explain, list_checks, make_settings, run_selection
from pervl_assets_tests.core.samples import photograph
from pervl_assets_tests.defs.plain import (
    COCO,
    OPENIMAGES,
    TRIPLETS,
    load_plain_clip,
    measure_cosines,
    name_member,
    read_openimages,
    read_sentences,
)
from pervl_assets_tests.inversion.kit import TINY_CONFIG, make_tiny_clip

CLASSES = make_settings(Path("data")).top_objects
FEATURES = dg.AssetKey(["inversion", "coco_image_features"])
# Few images, so that a test that encodes them takes a second.
FEW = {"top_objects": 2}
TRAINING_FILES = '+key:"palavra/visual_features" or +key:"palavra/object_sentences"'


def read_table(data: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(locate_value(data, ["inversion", name], ".parquet"))


def read_shard(data: Path, shard: str) -> Features:
    return read_features(locate_value(data, FEATURES.path, ".parquet", shard))


def read_text_features(data: Path, name: str) -> Features:
    return read_features(locate_value(data, ["inversion", name], ".parquet"))


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """The models that were loaded, one entry each time."""
    loaded, load = [], clip_encoder.load_encoder

    def count(model: str, *rest):
        loaded.append(model)
        return load(model, *rest)

    monkeypatch.setattr(clip_encoder, "load_encoder", count)
    monkeypatch.setattr(clip_encoder, "_last", None)
    return loaded


# ---- triplets, classes, sentences, names


def test_from_triplets_to_classes_and_sentences(made_world):
    expected = read_sentences(made_world.data, CLASSES)
    triplets = read_table(made_world.data, "coco_triplets")
    assert triplets.height == len((made_world.data / TRIPLETS).read_text().splitlines())
    classes = read_table(made_world.data, "coco_object_classes")
    assert classes["name"].to_list() == list(expected)
    assert classes["triplets"].to_list() == [len(rows) for rows in expected.values()]
    assert classes["images"].to_list() == [len({row[0] for row in rows}) for rows in expected.values()]
    sentences = read_table(made_world.data, "coco_object_sentences")
    assert sentences["name"].unique(maintain_order=True).to_list() == list(expected)
    columns = ("image_id", "sentence", "masked_sentence")
    for name, rows in expected.items():
        assert sentences.filter(name=name).select(columns).rows() == rows


def test_a_malformed_line_is_quarantined_and_counted(materialize, data):
    lines = (data / TRIPLETS).read_text().splitlines()
    (data / TRIPLETS).write_text("\n".join([*lines[:9], "img_id=12 | a dog | and no more", *lines[9:]]))
    result = materialize('+key:"inversion/coco_triplets"')
    assert result.success, explain(result)
    assert read_table(data, "coco_malformed_lines").rows() == [
        (10, "3 of 4 fields between |", "img_id=12 | a dog | and no more")
    ]
    triplets = read_table(data, "coco_triplets")
    assert triplets["line"].to_list() == [line for line in range(1, len(lines) + 2) if line != 10]
    check = list_checks(result)["inversion/coco_triplets:no_malformed_lines"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.description == f"1 of {len(lines) + 1} lines malformed and quarantined"
    assert "| 10 |" in check.metadata["lines"].value
    made = {event.asset_key.path[-1]: event.materialization for event in result.get_asset_materialization_events()}
    assert made["coco_triplets"].metadata["quarantined"].value == 1
    assert made["coco_malformed_lines"].metadata["dagster/row_count"].value == 1


def test_too_many_malformed_lines_are_a_failure_with_line_numbers_and_advice(materialize, data):
    lines = (data / TRIPLETS).read_text().splitlines()
    (data / TRIPLETS).write_text("\n".join([*lines, *["not a triplet"] * 20]))
    result = materialize('+key:"inversion/coco_triplets"')
    assert not result.success
    text = explain(result)
    assert f"20 of {len(lines) + 20} lines of {data / TRIPLETS} malformed" in text
    assert f"line {len(lines) + 1}: 1 of 4 fields between |: 'not a triplet'" in text
    assert "and 10 more" in text
    assert "What to do: Compare the file with https://" in text
    assert not (data / "assets/inversion").exists()


def test_an_empty_object_counts_and_warns(materialize, data):
    with (data / TRIPLETS).open("a") as file:
        file.write("img_id=9 | , on, dog | on dog | something on a dog\n")
    check = list_checks(materialize('+key:"inversion/coco_triplets"'))["inversion/coco_triplets:no_empty_objects"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.description.startswith("1 of ")


def test_an_openimages_row_without_a_name_is_quarantined(materialize, data):
    names = read_openimages(data)
    with (data / OPENIMAGES).open("a") as file:
        file.write("/m/0nameless,\n/m/0last,Last one\n")
    result = materialize('+key:"inversion/openimages_classes"')
    assert result.success, explain(result)
    assert read_table(data, "openimages_malformed_rows").rows() == [
        (len(names) + 2, "an empty label or name", "/m/0nameless,")
    ]
    classes = read_table(data, "openimages_classes")
    assert classes["name"].to_list() == [*names, "Last one"]
    assert classes["row"].to_list() == list(range(len(names) + 1))
    check = list_checks(result)["inversion/openimages_classes:no_malformed_rows"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.description == f"1 of {len(names) + 2} lines malformed and quarantined"


def test_openimages_names_by_the_rule_of_upstream(materialize, data):
    assert materialize('+key:"inversion/openimages_classes"', openimages_names="upstream").success
    lines = (data / OPENIMAGES).read_text().splitlines()
    expected = [" ".join(line.split(",")[1:]) for line in lines]
    assert read_table(data, "openimages_classes")["name"].to_list() == expected
    assert expected[0] == "DisplayName"


# ---- features


def test_image_features_are_those_of_plain_open_clip(made_world):
    for shard in ("0-of-2", "1-of-2"):
        features = read_shard(made_world.data, shard)
        plain = load_plain_clip().encode_images(made_world.data / COCO, [name_member(i) for i in features.ids])
        assert features.vectors.dtype == np.float32
        assert measure_cosines(features.vectors, plain).min() >= 0.9999
        assert np.allclose(features.vectors, plain, rtol=1e-3, atol=1e-4)  # as long as they are: not normalised
        assert (features.passport.precision, features.passport.device) == ("fp32", "cpu")


def test_text_features_are_those_of_plain_open_clip(made_world):
    for name, names in (
        ("coco_class_text_features", list(read_sentences(made_world.data, CLASSES))),
        ("openimages_text_features", read_openimages(made_world.data)),
    ):
        features = read_text_features(made_world.data, name)
        assert features.ids == names
        plain = load_plain_clip().encode_names(names)
        assert measure_cosines(features.vectors, plain).min() >= 0.9999
        assert np.allclose(features.vectors, plain, rtol=1e-3, atol=1e-4)


def test_every_image_of_the_classes_is_in_its_shard(made_world):
    wanted = {row[0] for rows in read_sentences(made_world.data, CLASSES).values() for row in rows}
    for number in (0, 1):
        features = read_shard(made_world.data, f"{number}-of-2")
        assert features.ids == sorted(i for i in wanted if zlib.crc32(i.encode()) % 2 == number)
        assert all(image_id.endswith(" ") for image_id in features.ids)
        with zipfile.ZipFile(made_world.data / COCO) as archive:
            assert features.crc32s == [archive.getinfo(name_member(i)).CRC for i in features.ids]


def test_matches_are_those_of_plain_numpy(made_world):
    names = read_text_features(made_world.data, "openimages_text_features")
    classes = read_text_features(made_world.data, "coco_class_text_features")
    apart = names.vectors.astype(np.float64)[:, None] - classes.vectors.astype(np.float64)[None]
    distances = (apart**2).sum(axis=2)
    # Equal vectors (one name written twice) are equally near; the first class is then the match.
    order = np.argsort(distances.astype(np.float32), axis=1, kind="stable")
    rows = np.arange(len(order))
    matches = read_table(made_world.data, "openimages_matches")
    assert matches["name"].to_list() == names.ids
    assert matches["row"].to_list() == rows.tolist()
    assert matches["class_row"].to_list() == order[:, 0].tolist()
    assert matches["class_name"].to_list() == [classes.ids[row] for row in order[:, 0]]
    assert matches["runner_up_row"].to_list() == order[:, 1].tolist()
    assert np.allclose(matches["distance"], distances[rows, order[:, 0]], rtol=1e-6)
    margins = distances[rows, order[:, 1]] - distances[rows, order[:, 0]]
    assert np.allclose(matches["margin"], margins, rtol=1e-4, atol=1e-5)


def test_one_shard_alone(data, materialize):
    run_selection(data, '+key:"inversion/coco_object_sentences" or key:"raw/coco_train2014"', **FEW)
    result = materialize('key:"inversion/coco_image_features"', "0-of-2", **FEW)
    assert result.success, explain(result)
    (made,) = [event.materialization for event in result.get_asset_materialization_events()]
    assert made.partition == "0-of-2"
    folder = data.joinpath("assets", *FEATURES.path)
    assert [path.name for path in folder.iterdir()] == ["0-of-2.parquet"]
    assert len(read_shard(data, "0-of-2").ids) == made.metadata["dagster/row_count"].value > 0


def test_shards_load_the_model_once_per_process_and_unchanged_ones_not_at_all(data, loads):
    *_, before = run_selection(data, '+key:"inversion/coco_object_sentences" or key:"raw/coco_train2014"', **FEW)
    assert before.success
    assert loads == []
    runs = run_selection(data, 'key:"inversion/coco_image_features"', **FEW)
    assert all(run.success for run in runs), explain(*runs)
    assert len(loads) == 1
    made = [event for run in runs for event in run.get_asset_materialization_events()]
    assert [event.partition for event in made] == ["0-of-2", "1-of-2"]
    versions = {event.materialization.tags["dagster/data_version"] for event in made}
    assert versions == {read_shard(data, shard).hash()[:16] for shard in ("0-of-2", "1-of-2")}
    for event in made:
        metadata = event.materialization.metadata
        assert metadata["dagster/row_count"].value == len(read_shard(data, event.partition).ids) > 0
        assert metadata["passport"].value["precision"] == "fp32"
    files = photograph(data)
    clip_encoder._last = None  # as in another process
    again = run_selection(data, 'key:"inversion/coco_image_features"', **FEW)
    assert all(run.success for run in again)
    assert len(loads) == 1
    assert photograph(data) == files


def test_texts_of_unchanged_names_load_no_model(made_world, tmp_path, loads):
    data = made_world.copy_to(tmp_path / "data")
    texts = 'key:"inversion/openimages_text_features" or key:"inversion/coco_class_text_features"'
    (run,) = run_selection(data, texts)
    assert run.success, explain(run)
    assert loads == []
    (run,) = run_selection(data, texts, precision="bf16")  # another passport: nothing is taken over
    assert run.success, explain(run)
    assert len(loads) == 1
    assert read_text_features(data, "openimages_text_features").passport.precision == "bf16"


def test_steps_that_run_the_model_use_the_pool(tmp_path):
    defs = build_definitions(make_settings(tmp_path))
    graph = defs.resolve_asset_graph()
    nodes = {
        key.to_user_string(): node
        for key in graph.materializable_asset_keys
        for node in graph.get(key).assets_def.node_def.iterate_op_defs()
    }
    images = {
        "inversion/coco_image_features",
        "evaluation/ytvos/image_features",
        "evaluation/deep_fashion/image_features",
    }
    assert {name for name, node in nodes.items() if node.name == "encode_images"} == images
    on_gpu = {name for name, node in nodes.items() if node.pool == "gpu"}
    assert on_gpu == {
        name
        for name in nodes
        if name.endswith(("_features", "/concept_tokens", "/set_encoder")) and "palavra" not in name
    }
    for name, node in nodes.items():
        assert ("pervl/device" in node.tags) == (name in on_gpu)


# ---- bad input


def corrupt_images(data: Path, victims: list[str], change) -> None:
    """Rewrite COCO's archive with `change` applied to the victims' members."""
    members = {name_member(image_id) for image_id in victims}
    change_members(data / COCO, lambda name, content: change(content) if name in members else content)


def load_dictionary(data: Path) -> dict:
    path = data / "inversion_model_train_data/txt_for_training/commom_obj_dict.npy"
    return np.load(path, allow_pickle=True).item()


def load_images(data: Path) -> dict:
    path = data / "inversion_model_train_data/visual_features/visual_features_dict_center_crop_300_224.npz"
    return np.load(path, allow_pickle=True)["arr_0"].item()


def test_a_corrupt_image_is_quarantined_and_its_sentences_are_left_out(data, fake_clip):
    sentences = read_sentences(data, FEW["top_objects"])
    (name, rows), *_ = sentences.items()
    victim = rows[3][0]
    lost = sum(row[0] == victim for rows in sentences.values() for row in rows)
    corrupt_images(data, [victim], cut_jpeg)
    results = run_selection(data, TRAINING_FILES, resources={"clip": fake_clip}, **FEW)
    assert all(result.success for result in results), explain(results[-1])
    checks = list_checks(*results)
    assert checks["palavra/visual_features:no_image_missing"].passed
    check = checks["palavra/visual_features:no_image_quarantined"]
    total = len({row[0] for rows in sentences.values() for row in rows})
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.description == f"1 of {total} images quarantined: {name_member(victim)}"
    check = checks["palavra/object_sentences:every_image_has_features"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.description == f"{lost} sentence{'s' * (lost > 1)} left out, of 1 image without features: {victim}"
    loaded = load_dictionary(data)
    assert loaded[name][0].tolist() == [row[0] for row in rows if row[0] != victim]
    assert all(victim not in ids for ids, *_ in loaded.values())
    assert victim not in load_images(data)
    shard = read_shard(data, f"{zlib.crc32(victim.encode()) % 2}-of-2")
    assert shard.rejected.select("id", "member", "status").rows() == [(victim, name_member(victim), "quarantined")]
    assert "cannot be decoded" in shard.rejected["reason"][0]


def test_an_image_that_is_not_in_the_archive_is_an_error_that_names_it(data, instance, fake_clip):
    victims = sorted({row[0] for rows in read_sentences(data, FEW["top_objects"]).values() for row in rows})[4:6]
    corrupt_images(data, victims, lambda _: None)
    results = run_selection(data, TRAINING_FILES, instance, resources={"clip": fake_clip}, **FEW)
    assert not read_run_result(instance, results[-1].run_id).passed
    check = list_checks(*results)["palavra/visual_features:no_image_missing"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert check.description.startswith("2 of ")
    assert all(name_member(victim) in check.description for victim in victims)
    assert "Download train2014.zip again" in check.description
    assert set(victims).isdisjoint(load_images(data))
    assert all(set(victims).isdisjoint(ids) for ids, *_ in load_dictionary(data).values())


def test_a_class_with_too_few_images_is_named(data, fake_clip):
    # The rarest thing of the demo data is in a few pictures.
    results = run_selection(data, TRAINING_FILES, resources={"clip": fake_clip}, top_objects=33)
    check = list_checks(*results)["palavra/object_sentences:every_class_has_enough_images"]
    counts = {name: len({row[0] for row in rows}) for name, rows in read_sentences(data, 33).items()}
    short = {name: count for name, count in counts.items() if count < 8}
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert f"{len(short)} of 33 classes with fewer than 8" in check.description
    assert all(f"'{name}' ({count})" in check.description for name, count in list(short.items())[:10])


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_checkpoint_of_another_architecture_is_an_error_with_advice(data, tmp_path, suffix):
    import torch
    from safetensors.torch import save_file

    path = tmp_path / f"other.{suffix}"
    weights = make_tiny_clip(TINY_CONFIG).state_dict()
    save_file(weights, path) if suffix == "safetensors" else torch.save(weights, path)
    asset = "coco_image_features" if suffix == "pt" else "coco_class_text_features"
    *_, result = run_selection(data, f'+key:"inversion/{asset}"', clip_pretrained=str(path), **FEW)
    assert not result.success
    text = explain(result)
    assert "CheckpointError" in text
    assert f"{path} does not hold the weights of tiny_clip: of " in text
    assert "tensors" in text
    assert "unexpected: visual.class_embedding" in text
    assert "of another shape: " in text
    assert "What to do: Set PERVL_CLIP_MODEL to the architecture this checkpoint was made with" in text
    assert not list(data.glob("assets/inversion/*_features*"))
