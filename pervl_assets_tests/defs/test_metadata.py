"""Metadata of materializations and check results: seconds of own work, previews, numbers, escaped names."""

import time

import dagster as dg
import numpy as np
import polars as pl
import pytest

from pervl_assets.clip.features import Features
from pervl_assets.defs.metadata import embed_image, make_check_result, preview_table, record_duration
from pervl_assets.io_managers.base import PervlIOManager
from pervl_assets.io_managers.features import FeaturesIOManager
from pervl_assets.io_managers.metadata import SECONDS
from pervl_assets.io_managers.tables import COLUMN_SCHEMA
from pervl_assets.testing.fake_clip import issue_fake_passport


class Clock:
    """A clock that only work moves on."""

    def __init__(self) -> None:
        self.now = 100.0

    def read(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


CLOCK = Clock()


class SlowIOManager(PervlIOManager):
    """Takes 10 seconds to write a value, and 1,000 to read it."""

    extension = ".txt"

    def write(self, context, value, path):
        CLOCK.work(10)
        path.write_text(str(value))

    def load(self, path):
        CLOCK.work(1000)
        return path.read_text()


@pytest.fixture
def materialize(tmp_path, monkeypatch):
    """Materialize assets under a clock of the test's own; returns metadata by asset."""
    monkeypatch.setattr(time, "perf_counter", CLOCK.read)

    def run(*assets):
        result = dg.materialize(list(assets), resources={"io_manager": SlowIOManager(data=str(tmp_path))})
        events = result.get_asset_materialization_events()
        return {event.asset_key.to_user_string(): event.materialization.metadata for event in events}

    return run


def test_seconds_are_those_of_the_body_and_of_writing(materialize):
    @dg.asset
    @record_duration
    def first() -> dg.MaterializeResult[str]:
        CLOCK.work(1)
        return dg.MaterializeResult(value="a", metadata={"rows": 3})

    @dg.asset
    @record_duration
    def second(context: dg.AssetExecutionContext, first: str):
        assert (context.asset_key.to_user_string(), first) == ("second", "a")
        CLOCK.work(2)
        yield dg.MaterializeResult(value="b")

    made = materialize(first, second)
    assert {name: metadata[SECONDS].value for name, metadata in made.items()} == {"first": 11, "second": 12}
    assert made["first"]["rows"].value == 3


def test_each_of_several_results_records_the_seconds_since_the_one_before(materialize):
    @dg.multi_asset(outs={"left": dg.AssetOut(), "right": dg.AssetOut()})
    @record_duration
    def both():
        CLOCK.work(5)
        yield dg.MaterializeResult(asset_key="left", value=1)
        CLOCK.work(0.25)
        yield dg.MaterializeResult(asset_key="right", value=2)

    assert {name: metadata[SECONDS].value for name, metadata in materialize(both).items()} == {
        "left": 15,
        "right": 10.25,
    }


def test_an_asset_without_seconds_gets_none(materialize):
    @dg.asset
    def plain() -> dg.MaterializeResult[int]:
        return dg.MaterializeResult(value=1)

    assert SECONDS not in materialize(plain)["plain"]


def test_a_preview_is_short():
    frame = pl.DataFrame({"name": ["a|b", "x" * 99], "count": [1, 20_000], "distance": [159.14604, 4.7e-12]})
    head, rule, first, second = preview_table(frame).value.splitlines()
    assert (head, rule) == ("| name | count | distance |", "| --- | ---: | ---: |")
    assert first == "| a&#124;b | 1 | 159.1 |"
    assert second == f"| {'x' * 79}… | 20000 | 4.7e-12 |"
    assert preview_table(frame.clear()).value == "*no rows*"


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
