"""What `pervl status` says of assets and inputs, before and after something changes."""

import dagster as dg

from pervl_assets.cli.status import AssetState, list_inputs, list_states
from pervl_assets.definitions import build_definitions
from pervl_assets.demo import RAW_NAMES
from pervl_assets.testing.runs import explain, make_settings, run_selection
from pervl_assets_tests.defs.plain import TRIPLETS

# Without the model, and with a tree in two partitions.
SELECTION = '+key:"inversion/coco_object_sentences" or key:"palavra/object_names" or +key:"deep_fashion/personalized"'


def look(data, instance, **changes) -> dict[tuple[str, str | None], AssetState]:
    states = list(list_states(build_definitions(make_settings(data, **changes)), instance))
    found = {(state.asset, state.partition): state for state in states}
    assert len(found) == len(states)
    return found


def name_by_state(states: dict, wanted: str) -> set[tuple[str, str | None]]:
    return {name for name, state in states.items() if state.state == wanted}


def run(data, selection, instance, **changes) -> None:
    results = run_selection(data, selection, instance, **changes)
    assert all(result.success for result in results), explain(results[-1])


def test_missing_then_fresh_then_stale_behind_a_changed_input_then_fresh(data, instance):
    before = look(data, instance)
    assert name_by_state(before, "missing") == set(before)
    assert {partition for asset, partition in before if asset == "ytvos/retrieval_set"} == {"validation", "test"}
    assert {state.when for state in before.values()} == {None}

    run(data, SELECTION, instance)
    made = look(data, instance)
    fresh = name_by_state(made, "up to date")
    assert not name_by_state(made, "stale")
    assert {("deep_fashion/personalized", "validation"), ("deep_fashion/personalized", "test")} <= fresh
    assert ("inversion/coco_image_features", "0-of-2") not in fresh
    classes = made["inversion/coco_object_classes", None]
    assert classes.metadata["dagster/row_count"] == make_settings(data).top_objects
    assert classes.when is not None
    assert all(state.why == "" for state in made.values())

    with (data / TRIPLETS).open("a") as file:
        file.write("img_id=9 | dog, chase, kite | dog chase kite | a dog chases a kite\n")
    run(data, 'key:"raw/coco_svo_triplets"', instance)
    changed = look(data, instance)
    behind = {("inversion/coco_triplets", None), ("inversion/coco_malformed_lines", None)}
    assert name_by_state(changed, "stale") == behind  # those made from it; what they will change is not known yet
    assert name_by_state(changed, "up to date") == fresh - behind
    assert name_by_state(changed, "missing") == name_by_state(made, "missing")
    assert "raw/coco_svo_triplets" in changed["inversion/coco_triplets", None].why

    run(data, 'key:"inversion/coco_triplets"', instance)
    changed = look(data, instance)
    assert name_by_state(changed, "stale") == {
        ("inversion/coco_object_classes", None),
        ("inversion/coco_object_sentences", None),
    }
    run(data, SELECTION, instance)
    assert name_by_state(look(data, instance), "up to date") == fresh


def test_an_input_that_is_looked_at_again_and_did_not_change_makes_nothing_stale(data, instance):
    run(data, SELECTION, instance)
    run(data, "group:raw", instance)
    assert not name_by_state(look(data, instance), "stale")


def test_a_change_without_consequence_stops_there(data, instance):
    """Data versions are hashes of content: what comes out as before leaves what is made of it fresh."""
    run(data, SELECTION, instance)
    with (data / TRIPLETS).open("a") as file:
        file.write("\n")  # a blank line, no triplet
    run(data, 'key:"raw/coco_svo_triplets" or key:"inversion/coco_triplets"', instance)
    assert not name_by_state(look(data, instance), "stale")


def test_one_partition_alone(data, instance):
    run(data, '+key:"deep_fashion/few_shot_split" or +key:"deep_fashion/captions" or group:raw', instance)
    defs = build_definitions(make_settings(data))
    done = dg.materialize(
        list(defs.assets),
        selection='key:"deep_fashion/personalized"',
        resources=dict(defs.resources),
        partition_key="test",
        instance=instance,
    )
    assert done.success
    states = look(data, instance)
    assert states["deep_fashion/personalized", "test"].state == "up to date"
    assert states["deep_fashion/personalized", "test"].metadata["files"] > 0
    assert states["deep_fashion/personalized", "validation"].state == "missing"


def test_inputs_are_found_as_archive_or_as_folder(data):
    found = {one.name: one for one in list_inputs(make_settings(data))}
    assert set(found) == set(RAW_NAMES)
    assert all(one.found for one in found.values())
    assert found["youtube_vos_train"].path == "youtube_vos/train.zip"
    (data / "youtube_vos/train.zip").unlink()
    (data / TRIPLETS).unlink()
    found = {one.name: one for one in list_inputs(make_settings(data))}
    assert {name for name, one in found.items() if not one.found} == {"youtube_vos_train", "coco_svo_triplets"}
    assert found["youtube_vos_train"].path == "youtube_vos/train.zip"
    (data / "youtube_vos/train").mkdir()
    found = {one.name: one for one in list_inputs(make_settings(data))}
    assert (found["youtube_vos_train"].found, found["youtube_vos_train"].path) == (True, "youtube_vos/train")
    assert not (data / TRIPLETS).exists()  # looking draws nothing
