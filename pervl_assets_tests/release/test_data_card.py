"""Data cards, as PyYAML and Hugging Face's `datasets` read them."""

import dataclasses
import json

import polars as pl
import pytest
import yaml

from pervl_assets.core.errors import MissingInputError, WriteError
from pervl_assets.release.data_card import CARD, build_cards, refuse_foreign
from pervl_assets.release.parts import Release, TablePart
from pervl_assets_tests.release.samples import NOTES, SPLIT_OF, make_part, make_release, make_tree

VIEWS = "views/imagefolder"
COUNTS = {("few_shot", "validation"): 2, ("few_shot", "test"): 4, ("evaluation", "validation"): 1} | {
    ("evaluation", "test"): 2
}
"""Images by config and split."""


@pytest.fixture
def release(tmp_path) -> Release:
    """The sample release, with an `imagefolder` per split and a table without rows."""
    data = tmp_path / "data"
    release = make_release(data)
    trees = []
    for split in ("validation", "test"):
        pets = [pet for pet, name in SPLIT_OF.items() if name == split]
        images = [(f"train/{pet}/{n}.jpg", pet, "few_shot_view") for pet in pets for n in range(2)]
        images += [(f"test/{pet}/0.jpg", pet, "evaluation_view") for pet in pets]
        texts = [(f"{subset}/metadata.jsonl", "", "summary") for subset in ("train", "test")]
        root, ledger = f"{VIEWS}/pets/{split}", f"assets/pets/view/{split}.parquet"
        trees.append(make_tree(data, root, ledger, [*images, *texts], split))
        for path, _, _ in texts:
            subset = path.partition("/")[0]
            rows = [
                {"file_name": name.removeprefix(f"{subset}/"), "concept": pet}
                for name, pet, _ in images
                if name.startswith(subset)
            ]
            (data / root / path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    pl.DataFrame(schema={"line": pl.UInt32}).write_parquet(data / "assets/pets/none.parquet")
    empty = TablePart("pets/none", "No\npets. Really.\n\nNone.", (NOTES,), ("assets/pets/none.parquet",), {})
    return dataclasses.replace(release, parts=(*release.parts, make_part("pets/view", *trees), empty))


@pytest.fixture
def cards(release) -> dict[str, str]:
    cards = build_cards(release)
    for path, text in cards.items():
        (release.root / path).write_text(text)
    return cards


def read_front_matter(card: str) -> dict:
    start, matter, _ = card.split("---\n", 2)
    assert start == ""
    return yaml.safe_load(matter)


def test_the_front_matter_names_licences_and_the_files_of_every_split(release, cards):
    matter = read_front_matter(cards[CARD])
    assert matter["pretty_name"] == "PerVL"
    assert matter["license"] == ["cc-by-4.0", "other"]
    assert (matter["license_name"], matter["license_link"]) == ("by-part", "LICENSE.md")
    assert matter["size_categories"] == ["n<1K"]
    files = {config["config_name"]: config["data_files"] for config in matter["configs"]}
    assert files == {
        "pets.names": [{"split": "full", "path": "assets/pets/names.parquet"}],
        "pets.features": [
            {"split": "full", "path": [f"assets/pets/features/{number}-of-2.parquet" for number in range(2)]}
        ],
    }
    parts = {part.name: part for part in release.parts}
    split = dataclasses.replace(
        parts["pets/names"], files=("assets/pets/names/test.parquet", "assets/pets/names/validation.parquet")
    )
    for file in split.files:
        (release.root / file).parent.mkdir(exist_ok=True)
        pl.DataFrame({"pet": ["rex"] * 1000}).write_parquet(release.root / file)
    matter = read_front_matter(build_cards(dataclasses.replace(release, parts=(split,)))[CARD])
    assert [one["split"] for one in matter["configs"][0]["data_files"]] == ["test", "validation"]
    assert (matter["license"], matter["size_categories"]) == (["cc-by-4.0"], ["1K<n<10K"])
    assert "license_link" not in matter


def test_the_text_lists_every_part_with_its_size_and_licences(release, cards):
    rows = {line.split("`")[1]: line for line in cards[CARD].splitlines() if line.startswith("| `")}
    assert rows.keys() == {part.name for part in release.parts}
    assert rows["pets/none"].startswith("| `pets/none` | No pets. | 0 | ")
    assert rows["pets/features"].endswith("| CC-BY-4.0; terms of Photographs of pets |")
    assert "| 7 | " in rows["pets/whole"]  # files
    assert '\nload_dataset("FOLDER", "pets.names", split="full")\n' in cards[CARD]
    assert "| `photos` | [Photographs of pets](https://example.org/photos) | " in cards["LICENSE.md"]
    assert "| no |" in cards["LICENSE.md"]
    assert "Left out" not in cards[CARD]


def test_trees_that_may_not_be_passed_on_are_named_with_the_reason(release):
    barred = [part for part in release.trees if part.barred_by]
    assert [source.name for source in barred[0].barred_by] == ["photos"]
    card = build_cards(dataclasses.replace(release, parts=release.parts[:2], barred=tuple(barred)))[CARD]
    assert "| `pets/whole` | 7 | " in card
    assert "[Photographs of pets](https://example.org/photos)" in card
    assert "`pervl materialize +pets/whole`" in card


def test_hugging_face_reads_every_config_and_split(release, cards, tmp_path):
    datasets = pytest.importorskip("datasets", reason="the Hugging Face library `datasets` is not installed")

    def load(folder: str, config: str) -> dict:
        return datasets.load_dataset(str(release.root / folder), config, cache_dir=str(tmp_path / "cache"))

    assert {config: load("", config)["full"].num_rows for config in ("pets.names", "pets.features")} == {
        "pets.names": 3,
        "pets.features": 4,
    }
    for folder, prefix in ((f"{VIEWS}/pets", ""), (VIEWS, "pets.")):
        found = {config: load(folder, prefix + config) for config, _ in COUNTS}
        assert {(config, split): rows.num_rows for config in found for split, rows in found[config].items()} == COUNTS
        assert set(found["evaluation"]["test"]["concept"]) == {"tom", "mia"}
        assert found["few_shot"]["test"][0]["image"].size == (24, 16)
        with pytest.raises(ValueError, match="Config name is missing"):
            datasets.load_dataset(str(release.root / folder), cache_dir=str(tmp_path / "cache"))


def test_a_card_of_somebody_else_is_not_replaced(release, cards):
    for path in cards:
        refuse_foreign(release.root / path)
    refuse_foreign(release.root / "elsewhere.md")
    (release.root / CARD).write_text("# My notes\n")
    with pytest.raises(WriteError, match="was not written by pervl"):
        refuse_foreign(release.root / CARD)


def test_an_empty_release_has_no_card(release):
    with pytest.raises(MissingInputError, match="nothing to release"):
        build_cards(dataclasses.replace(release, parts=()))
