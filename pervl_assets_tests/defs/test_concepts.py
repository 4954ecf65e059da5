"""Tokens and the features of queries with them as assets, beside small inputs in place of the real ones."""

from functools import partial

import dagster as dg
import polars as pl
import pytest

from pervl_assets.benchmarks import find_searched
from pervl_assets.clip.features import read_features, write_features
from pervl_assets.core.files import make_folder
from pervl_assets.core.tables import write_hashed
from pervl_assets.defs.concepts import build_concept_assets
from pervl_assets.defs.evaluation_results import _describe_trainings
from pervl_assets.defs.resources import Clip, Workspace
from pervl_assets.defs.up_to_date import explain_outdated
from pervl_assets.evaluation.queries import QUERIES
from pervl_assets.io_managers import find_io_managers
from pervl_assets.io_managers.base import locate_value
from pervl_assets.io_managers.tables import TableIOManager
from pervl_assets.testing.runs import explain, list_checks, make_settings
from pervl_assets.training.set_encoder import write_set_encoder
from pervl_assets_tests.clip.test_model_families import FAMILIES, write_folder
from pervl_assets_tests.training.test_concept_tokens import CONCEPTS, make_draws, make_images, make_trained

NAME = "ytvos"
TOKENS = dg.AssetKey(["training", NAME, "concept_tokens"])
FEATURES = dg.AssetKey(["evaluation", NAME, "concept_query_features"])


def make_queries():
    rows = [
        (f"{protocol}/rich/{form}/{n}", protocol, "rich", form, n, concept, "dog", f"a dog {part} {n}", [f"{n}.jpg"])
        for protocol in ("palavra", "polar")
        for form, part in (("text", "dog"), ("token", "*"))
        for n, concept in enumerate(CONCEPTS)
    ]
    return pl.DataFrame(rows, QUERIES.to_polars(), orient="row")


def _never_made():
    raise NotImplementedError


def declare(key, manager, partitions):
    """Return an asset that is never made: its value is on disk."""
    partitioning = dg.StaticPartitionsDefinition(list(partitions))
    return dg.asset(key=key, io_manager_key=manager, partitions_def=partitioning)(_never_made)


@pytest.fixture
def world(tmp_path):
    """A data folder with what concepts are learned from, for the split `test`; its resources, and all assets."""
    folder = tmp_path / "model"
    write_folder(folder, FAMILIES["OpenAI"] | {"embed_dim": 24})
    settings = make_settings(tmp_path, clip_model=str(folder), clip_pretrained="")
    clip = Clip.from_settings(settings)
    locate = partial(locate_value, tmp_path)
    for seed in ("1", "2"):
        path = locate(("training", "set_encoder"), ".safetensors", seed)
        make_folder(path.parent)
        write_set_encoder(make_trained(int(seed), clip.as_published().describe()), path)
    for name, frame in (("queries", make_queries()), ("few_shot_draws", make_draws())):
        make_folder((path := locate(("evaluation", NAME, name), ".parquet", "test")).parent)
        write_hashed(frame, path)
    make_folder((path := locate(("evaluation", NAME, "image_features"), ".parquet", "test")).parent)
    write_features(make_images(clip.as_published().load()), path)
    splits = next(tree.splits for benchmark, _, tree in find_searched() if benchmark.name == NAME)
    given = [
        *(declare(["evaluation", NAME, name], "tables", splits) for name in ("queries", "few_shot_draws")),
        declare(["evaluation", NAME, "image_features"], "features", splits),
        declare(["training", "set_encoder"], "weights", ("1", "2")),
    ]
    made = [asset for asset in build_concept_assets(2) if asset.key in (TOKENS, FEATURES)]
    managers = {key: manager(data=str(tmp_path)) for key, manager in find_io_managers().items()}
    return tmp_path, [*given, *made], {**managers, "workspace": Workspace.from_settings(settings), "clip": clip}


def materialize(world, *keys, instance=None):
    _, assets, resources = world
    return dg.materialize(
        assets,
        selection=dg.AssetSelection.assets(*keys),
        resources=resources,
        partition_key="test",
        instance=instance,
        raise_on_error=False,
    )


def test_tokens_and_queries_with_them_are_made(world):
    result = materialize(world, TOKENS, FEATURES)
    assert result.success, explain(result)
    assert {name.split(":")[1]: one.passed for name, one in list_checks(result).items()} == {
        "every_concept_has_a_token": True,
        "losses_fell": True,
        "every_query_is_encoded": True,
    }
    (made,) = result.asset_materializations_for_node("training__ytvos__concept_tokens")
    assert made.metadata["loss"].value.startswith("![mean loss")
    assert [len(losses) for losses in made.metadata["losses"].value.values()] == [30, 30]
    features = read_features(locate_value(world[0], FEATURES.path, ".parquet", "test"))
    assert len(features.ids) == 2 * 3 * 3
    assert features.ids[0] == "PALAVRA/1/palavra/rich/token/0"
    assert not [*world[0].rglob("*.partial")]
    assert [one["seed"] for one in _describe_trainings(features.passport.tokens)] == [1, 2]
    assert _describe_trainings("") == []


def test_they_are_up_to_date_until_a_set_encoder_changes(world):
    _, assets, resources = world
    graph = dg.Definitions(assets, resources=resources).resolve_asset_graph()
    values = [(TOKENS, "test"), (FEATURES, "test")]
    with dg.DagsterInstance.ephemeral() as instance:
        materialize(world, TOKENS, FEATURES, instance=instance)
        assert explain_outdated(graph, instance, values, resources) == {}
        again = dg.AssetMaterialization(["training", "set_encoder"], partition="2", tags={"dagster/data_version": "x"})
        instance.report_runless_asset_event(again)
        changed = explain_outdated(graph, instance, values, resources)
    assert changed == {(TOKENS, "test"): "inputs changed: training/set_encoder"}


def test_what_was_learned_is_kept_if_it_cannot_be_stored(world, monkeypatch):
    data = world[0]
    monkeypatch.setattr(TableIOManager, "write", lambda *_: 1 / 0)
    assert not materialize(world, TOKENS).success
    saved = [*locate_value(data, TOKENS.path, ".partial", "test").iterdir()]
    assert len(saved) == 6
    monkeypatch.undo()
    monkeypatch.setattr("pervl_assets.training.concept_tokens._learn", pytest.fail)
    assert materialize(world, TOKENS).success
    assert not [*data.rglob("*.partial")]


def test_a_further_encoder_has_tokens_of_its_own():
    keys = {asset.key.to_user_string() for asset in build_concept_assets(1, "ViT")}
    assert {"training/ViT/ytvos/concept_tokens", "evaluation/ViT/deep_fashion/concept_query_features"} <= keys
