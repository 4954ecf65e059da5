"""What the page of every asset shows: tags, notes, licences of the inputs, and where each column is from."""

from pathlib import Path

import dagster as dg
import pytest

from pervl_assets.archives.official_files import load_manifest
from pervl_assets.core.text import unescape_markdown
from pervl_assets.definitions import build_definitions
from pervl_assets.defs.pages import link_asset, list_source_notes, list_sources
from pervl_assets.defs.resources import ANNOTATIONS
from pervl_assets.evaluation.results import RESULTS
from pervl_assets.io_managers import find_io_managers
from pervl_assets.io_managers.tables import COLUMN_LINEAGE, COLUMN_SCHEMA
from pervl_assets.testing.runs import make_settings
from pervl_assets.upstream import COMMIT, REPOSITORY

FEATURES = ("coco_image_features", "coco_class_text_features", "openimages_text_features")
WITHOUT_A_SOURCE = {("inversion", name, "crc32") for name in FEATURES} | {
    *(
        ("evaluation", benchmark, "queries", name)
        for benchmark in ("ytvos", "deep_fashion")
        for name in ("query_id", "protocol", "query_set", "form", "query")
    ),
    *(("evaluation", "deep_fashion", "few_shot_draws", name) for name in ("scheme", "seed", "shot")),
    *(
        ("evaluation", benchmark, *column)
        for benchmark in ("ytvos", "deep_fashion")
        for column in (
            ("query_features", "crc32"),
            *((f"{kind}_{table}", "method") for kind in ("baseline", "concept") for table in ("ranks", "scores")),
            *((f"{kind}_scores", "seeds") for kind in ("baseline", "concept")),
            ("concept_query_features", "crc32"),
        )
    ),
    *(
        ("training", benchmark, "concept_tokens", name)
        for benchmark in ("ytvos", "deep_fashion")
        for name in ("method", "training")
    ),
    *(
        ("evaluation", "results", name)
        for name in RESULTS.names
        if name in ("benchmark", "split", "encoder", "source") or name.startswith("published")
    ),
}
"""The CRC is the archive's, which has no columns; protocols, draws, methods, weights and papers have no table."""


def find(nodes: dict, name: str):
    return nodes[dg.AssetKey.from_user_string(name)]


@pytest.fixture(scope="module")
def nodes() -> dict[dg.AssetKey, object]:
    """Every asset of the graph as the UI shows it."""
    graph = build_definitions(make_settings(Path("data"))).resolve_asset_graph()
    return {key: graph.get(key) for key in graph.materializable_asset_keys}


@pytest.fixture(scope="module")
def schemas(nodes) -> dict[dg.AssetKey, dict[str, dg.TableColumn]]:
    """The declared columns of every table and of all features, by name."""
    declared = {key: node.metadata[COLUMN_SCHEMA] for key, node in nodes.items() if COLUMN_SCHEMA in node.metadata}
    return {
        key: {column.name: column for column in getattr(schema, "schema", schema).columns}
        for key, schema in declared.items()
    }


@pytest.fixture(scope="module")
def lineages(nodes) -> dict[dg.AssetKey, dict[str, list[dg.TableColumnDep]]]:
    """The declared lineage of every asset that has one, by column."""
    declared = {key: node.metadata[COLUMN_LINEAGE] for key, node in nodes.items() if COLUMN_LINEAGE in node.metadata}
    return {key: getattr(value, "value", value).deps_by_column for key, value in declared.items()}


def test_every_asset_has_tags_of_its_kind_and_its_sources(nodes):
    kinds = {manager.kind for manager in find_io_managers().values()}
    for key, node in nodes.items():
        assert node.tags["pervl/value"] in kinds, key
        origins = [tag for tag in node.tags if tag.startswith("pervl/from_")]
        assert bool(origins) == (key.path[0] != "raw"), key
        assert ("raw_inputs" in node.metadata) == bool(origins), key
        assert ("licence" in node.metadata) == ("homepage" in node.metadata) == (not origins), key
    crops, matches = find(nodes, "ytvos/fsl_seg"), find(nodes, "inversion/openimages_matches")
    assert dict(crops.tags) == {
        "pervl/benchmark": "ytvos",
        "pervl/value": "tree",
        "pervl/from_pervl_annotations": "",
        "pervl/from_youtube_vos_train": "",
        "dagster/kind/folder": "",
    }
    assert "pervl/benchmark" not in matches.tags
    assert {"pervl/from_coco_svo_triplets", "pervl/from_openimages_class_descriptions"} <= set(matches.tags)
    assert find(nodes, "raw/deep_fashion2_train").tags["pervl/benchmark"] == "deep_fashion"


def test_licences_are_shown_with_their_addresses(nodes):
    shown = find(nodes, "inversion/coco_triplets").metadata["raw_inputs"].value
    assert "[coco_svo_triplets](/assets/raw/coco_svo_triplets)" in shown
    assert "[CC-BY-4.0](https://spdx.org/licenses/CC-BY-4.0)" in shown
    shown = find(nodes, "deep_fashion/personalized").metadata["raw_inputs"].value
    assert "[terms of DeepFashion2](https://github.com/switchablenorms/DeepFashion2)" in shown
    assert "non-commercial" in find(nodes, "raw/deep_fashion2_train").metadata["licence"].value
    annotations = find(nodes, "raw/pervl_annotations").metadata
    assert annotations["homepage"].value == list_sources()["pervl_annotations"].homepage
    assert "CC-BY-NC-SA-4.0" in annotations["licence"].value


def test_every_result_names_its_rule(nodes):
    notes = list_source_notes()
    assert set(notes) == {key for key in nodes if key.path[0] != "raw"}
    assert all(nodes[key].description.endswith(f"**Source:** {note}") for key, note in notes.items())
    manifest = load_manifest(ANNOTATIONS / "manifest.yaml")
    assert (manifest.repository, manifest.commit) == (REPOSITORY, COMMIT)
    assert f"{REPOSITORY}/blob/{COMMIT}/ytvos/ytvos_read_split.py" in notes[dg.AssetKey(["ytvos", "retrieval_set"])]


def test_a_column_is_from_columns_that_parents_have(nodes, schemas, lineages):
    for key, lineage in lineages.items():
        for column, deps in lineage.items():
            assert column in schemas[key], (key, column)
            for dep in deps:
                assert dep.asset_key in nodes[key].parent_keys, (key, column, dep)
                assert dep.column_name in schemas[dep.asset_key], (key, column, dep)


def test_every_column_of_a_table_made_from_tables_has_its_lineage(nodes, schemas, lineages):
    made = {key for key in schemas if nodes[key].parent_keys & schemas.keys()}
    assert made == set(lineages)
    names = {(*key.path, column) for key in made for column in schemas[key]}
    described = {(*key.path, column) for key in made for column in lineages[key]}
    assert names - described == WITHOUT_A_SOURCE
    assert {key.path[-1] for key in made} == {
        "coco_object_classes",
        "coco_object_sentences",
        "openimages_matches",
        "queries",
        "few_shot_draws",
        "query_features",
        "concept_tokens",
        "concept_query_features",
        "baseline_ranks",
        "baseline_scores",
        "concept_ranks",
        "concept_scores",
        "results",
        *FEATURES,
    }
    # Every parent with columns has a part in some column.
    for key in made:
        used = {dep.asset_key for deps in lineages[key].values() for dep in deps}
        assert used == nodes[key].parent_keys & schemas.keys(), key


def test_the_page_links_a_column_to_the_tables_that_it_is_from(schemas, lineages):
    for key, lineage in lineages.items():
        for name, deps in lineage.items():
            for dep in deps:
                assert link_asset(dep.asset_key, dep.asset_key.path[-1]) in schemas[key][name].description
    margin = schemas[dg.AssetKey(["inversion", "openimages_matches"])]["margin"]
    assert margin.description.startswith(
        "Squared distance to the runner-up minus that to the nearest; 0 on a tie\n\nFrom "
    )


def test_markup_in_column_descriptions_is_shown(schemas):
    image_name = schemas[dg.AssetKey(["ytvos", "captions"])]["image_name"].description
    assert unescape_markdown(image_name) == "evaluation image as named by upstream: eval/images/<concept>_<frame>.jpg"
    assert "<" not in image_name
