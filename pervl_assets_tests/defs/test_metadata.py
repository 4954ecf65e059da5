"""Metadata of materializations and check results: seconds of own work, previews, numbers, escaped names."""

import dagster as dg
import numpy as np
import polars as pl

from pervl_assets.clip.features import Features
from pervl_assets.defs.metadata import embed_image, make_check_result
from pervl_assets.io_managers.features import FeaturesIOManager
from pervl_assets.io_managers.metadata import describe_size, order_metadata, preview_table
from pervl_assets.io_managers.tables import COLUMN_SCHEMA
from pervl_assets.testing.fake_clip import issue_fake_passport


def test_a_preview_is_short():
    frame = pl.DataFrame({"name": ["a|b", "x" * 99], "count": [1, 20_000], "distance": [159.14604, 4.7e-12]})
    head, rule, first, second = preview_table(frame).value.splitlines()
    assert (head, rule) == ("| name | count | distance |", "| --- | ---: | ---: |")
    assert first == "| a&#124;b | 1 | 159.1 |"
    assert second == f"| {'x' * 79}… | 20000 | 4.7e-12 |"
    assert preview_table(frame.clear()).value == "*no rows*"


def test_a_size_is_in_words_and_as_the_numbers_that_are_plotted():
    assert describe_size(1_700_000_000, 82_783) == {
        "size": "1.7 GB in 82,783 files",
        "files": 82_783,
        "bytes": 1_700_000_000,
    }
    assert describe_size(12) == {"size": "12 bytes", "bytes": 12}


def test_what_people_look_at_comes_before_what_programs_read():
    shown, words = dg.MetadataValue.md("![]()"), {"json": dg.MetadataValue.json({}), "rows": {}, "seconds": 1.5}
    ordered = order_metadata({**words, "contact_sheet": shown, "size": "1 kB", "classes": shown})
    assert [*ordered] == ["contact_sheet", "classes", "seconds", "size", "json", "rows"]


def test_a_check_shows_rows_where_there_are_any():
    frame = pl.DataFrame({"id": [7]})
    shown = make_check_result(None, passed=False, text="1 of 2", bad=1, rows=frame, more=frame.clear())
    assert {name: value.value for name, value in shown.metadata.items()} == {
        "bad": 1,
        "rows": "| id |\n| ---: |\n| 7 |",
    }


def test_names_are_shown_and_not_drawn():
    name = "![](/graphql?query=mutation)"
    shown = [
        preview_table(pl.DataFrame({"name": [name], name: [[name]]})).value,
        make_check_result(None, passed=False, text=f"1 class: {name}").description,
        embed_image(b"", name).value.removeprefix("!["),
    ]
    assert not any("![" in text or "](/" in text for text in shown)
    assert preview_table(pl.DataFrame({"link": ["[x](/assets/x)"]}), markup=True).value.endswith("| [x](/assets/x) |")


def test_features_record_the_columns_that_they_are_stored_in():
    features = Features(["a"], np.ones((1, 3), np.float32), issue_fake_passport(dimension=3))
    declared = FeaturesIOManager.describe(features).metadata[COLUMN_SCHEMA]
    assert {column.name: column.type for column in declared.columns} == {
        name: str(dtype) for name, dtype in features.to_frame().schema.items()
    }
