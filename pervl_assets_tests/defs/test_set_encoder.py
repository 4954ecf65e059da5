"""The training of the inversion model through `dagster.materialize`, on the demo data, with the tiny CLIP."""

import dagster as dg
import polars as pl
import pytest

from pervl_assets.clip import encoder as clip_encoder
from pervl_assets.core.files import hash_file
from pervl_assets.core.tables import write_hashed
from pervl_assets.definitions import build_definitions
from pervl_assets.defs import set_encoder
from pervl_assets.defs.up_to_date import explain_outdated
from pervl_assets.io_managers.weights import WeightsIOManager
from pervl_assets.testing.runs import explain, list_checks, make_settings

KEY = dg.AssetKey(["training", "set_encoder"])
SMALL = {"training_epochs": 2, "set_encoder_width": 8, "repetitions": 2}


@pytest.fixture
def train(made_world, tmp_path, materialize, instance):
    """Train a repetition on a copy of the materialized demo data."""
    data = made_world.copy_to(tmp_path / "world")

    def run(partition="1", **changes):
        result = materialize(f'key:"{KEY.to_user_string()}"', partition, instance, data=data, **{**SMALL, **changes})
        assert result.success, explain(result)
        return result

    run.data = data
    return run


def test_an_epoch_is_not_uploaded_again_at_once(monkeypatch):
    pushed, now = [], [0.0]
    monkeypatch.setattr(set_encoder.time, "monotonic", lambda: now[0])
    push = set_encoder._limit(pushed.append)
    for now[0] in (1.0, 2.0, 60.0, 61.0, 62.0):
        push("epoch")
        push(f"sentences {now[0]}")
    assert pushed.count("epoch") == 2
    assert len(pushed) == 7


def test_a_repetition_is_trained_stored_and_checked_and_nothing_unfinished_is_left(train):
    result = train()
    stored = WeightsIOManager(data=str(train.data))
    trained = stored.read(KEY, "1")
    passport = trained.passport
    assert (passport.mode, passport.seed, passport.epochs, passport.hidden) == ("palavra", 1, 2, 8)
    assert trained.curves.height == 6
    assert [path.name for path in stored.locate(KEY, "1").parent.iterdir()] == ["1.safetensors"]
    checks = list_checks(result)
    classes = checks["training/set_encoder:every_class_is_trained"].metadata["classes"].value
    assert (passport.classes, passport.lost_images, passport.names) == (classes, 0, "csv")
    assert passport.preprocessing.startswith("resize 300 ")
    assert checks["training/set_encoder:finite_weights"].passed
    assert checks["training/set_encoder:every_class_is_trained"].passed
    assert "training/set_encoder:loss_fell" in checks
    (made,) = result.asset_materializations_for_node("training__set_encoder")
    assert made.metadata["cycle"].value.startswith("![cycle loss](data:image/svg+xml;base64,")
    assert made.metadata["parameters"].value == f"{sum(array.size for array in trained.weights.values()):,}"
    assert "| text |" in made.metadata["last_epoch"].value
    last = trained.curves.filter(phase="image")["cycle"][-1]
    assert made.metadata["last cycle loss of image"].value == pytest.approx(last, abs=1e-4)
    settings = made.metadata["settings"].value["workspace"]
    assert settings == {
        "openimages_names": "csv",
        "training_mode": "palavra",
        "training_prompts": None,
        "training_epochs": 2,
        "set_encoder_width": 8,
    }


def test_each_repetition_has_weights_of_its_own_which_are_made_once(train, instance, monkeypatch):
    train("1")
    train("2")
    stored = WeightsIOManager(data=str(train.data))
    first, second = (stored.locate(KEY, partition) for partition in "12")
    before = hash_file(first)
    assert before != hash_file(second)

    def find_outdated(**changes):
        defs = build_definitions(make_settings(train.data, **{**SMALL, **changes}))
        graph = defs.resolve_asset_graph()
        monkeypatch.setattr(clip_encoder, "load_encoder", pytest.fail)
        found = explain_outdated(graph, instance, [(KEY, "1"), (KEY, "2")], dict(defs.resources or {}))
        monkeypatch.undo()
        return found

    assert find_outdated() == {}
    changed = {(KEY, partition): "settings changed: training_mode palavra → paper" for partition in "12"}
    assert find_outdated(training_mode="paper") == changed
    (prompts := train.data / "prompts.txt").write_text("A *\n")
    found = find_outdated(training_prompts=prompts)
    assert {*found.values()} == {"settings changed: training_prompts prompts.txt"}
    assert len(found) == 2
    monkeypatch.setattr(clip_encoder, "load_encoder", pytest.fail)
    train("1")  # weights of the same passport are not trained again
    assert hash_file(first) == before


def test_a_class_with_few_images_is_a_warning_that_names_it(train):
    path = train.data / "assets/inversion/coco_object_sentences.parquet"
    frame = pl.read_parquet(path)
    few = frame.filter(name="bird")["image_id"].unique().sort().head(7)
    write_hashed(frame.filter((pl.col("name") != "bird") | pl.col("image_id").is_in(few.implode())), path)
    check = list_checks(train())["training/set_encoder:every_class_is_trained"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert check.description == "1 of 30 classes with too few images to train on: bird"
