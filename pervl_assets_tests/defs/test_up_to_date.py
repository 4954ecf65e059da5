"""What is up to date, and that nothing else is made: a small graph of a source, a table, two parts and their sum."""

import dataclasses
import math
from typing import Any

import dagster as dg
import pytest
from pydantic import Field

from pervl_assets.defs.checks import SUMS_HOLD
from pervl_assets.defs.runs import Plan
from pervl_assets.defs.steps import record_step
from pervl_assets.defs.up_to_date import CheckState, ValueState, find_reason
from pervl_assets.io_managers.base import PervlIOManager

FRESH = ValueState(
    stale="",
    last_run_made_it=True,
    age=60.0,
    largest_age=math.inf,
    made_with={"workspace": {"top_objects": 30}},
    settings={"workspace": {"top_objects": 30}},
    recorded_stamp="a",
    stamp="a",
    checks=(CheckState("counts", evaluated=True, failed=False), CheckState(SUMS_HOLD, evaluated=False, failed=False)),
)


def test_a_value_that_nothing_happened_to_is_up_to_date():
    assert find_reason(FRESH) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stale": "raw/x has a new data version"}, "raw/x has a new data version"),
        ({"last_run_made_it": False}, "the last run did not"),
        ({"largest_age": 59.0}, "not looked at for too long"),
        ({"settings": {"workspace": {"top_objects": 31}}}, "other settings"),
        ({"made_with": None, "settings": {}}, "other settings"),
        ({"stamp": "b"}, "files have changed"),
        ({"stamp": None}, "files have changed"),
        ({"stamp": None, "recorded_stamp": None}, "files have changed"),
        ({"checks": (CheckState("counts", evaluated=False, failed=False),)}, "counts was not evaluated"),
        ({"checks": (CheckState("counts", evaluated=True, failed=True),)}, "counts failed"),
        ({"checks": (CheckState(SUMS_HOLD, evaluated=True, failed=True),)}, "sums_hold failed"),
    ],
)
def test_every_change_is_a_reason(change, reason):
    assert reason in find_reason(dataclasses.replace(FRESH, **change))


def test_a_value_that_was_never_made_is_not_up_to_date():
    assert find_reason(None) == "it was never materialized"


# ---- a small graph


class TextIOManager(PervlIOManager):
    extension = ".txt"

    def write(self, context, value, path):
        path.write_text(value)

    def load(self, path):
        return path.read_text()


class Workspace(dg.ConfigurableResource[Any]):
    data: str = Field(default="")
    suffix: str = Field(default="")


def result(value):
    return dg.MaterializeResult(value=value, data_version=dg.DataVersion(value))


CONTENT = {"source": "s", "failing": ""}
PARTS = dg.StaticPartitionsDefinition(["north", "south"])


@dg.asset
@record_step
def source() -> dg.MaterializeResult[str]:
    return result(CONTENT["source"])


@dg.asset(check_specs=[dg.AssetCheckSpec("short", asset="table")])
@record_step
def table(source: str, workspace: Workspace):
    check = dg.AssetCheckResult(check_name="short", passed=CONTENT["failing"] != "table")
    yield result(source[0] + workspace.suffix)._replace(check_results=[check])


@dg.asset(partitions_def=PARTS)
@record_step
def part(context: dg.AssetExecutionContext, table: str) -> dg.MaterializeResult[str]:
    return result(f"{context.partition_key} {table}")


@dg.asset_check(asset=part)
@record_step
def named(context) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=CONTENT["failing"] != "part")


@dg.asset
@record_step
def total(part: dict[str, str]) -> dg.MaterializeResult[str]:
    return result(" ".join(sorted(part.values())))


class Graph:
    """The small graph, materialized in this process."""

    def __init__(self, folder, instance):
        self.instance, self.io_manager = instance, TextIOManager(data=str(folder))
        CONTENT.update(source="s", failing="")

    def make(self, suffix="", **options):
        """Bring the graph up to date; returns names of what each run made, and how many were skipped."""
        resources = {"io_manager": self.io_manager, "workspace": Workspace(data="anywhere", suffix=suffix)}
        assets = [source, table, part, total]
        defs = dg.Definitions(assets=assets, asset_checks=[named], resources=resources)
        graph = defs.resolve_asset_graph()
        plan = Plan(graph, self.instance, graph.materializable_asset_keys, resources, **options)
        made = []
        for run in plan:
            chosen = dg.AssetSelection.assets(*run.keys)
            dg.materialize(
                [*assets, named], selection=chosen, resources=resources, instance=self.instance, tags=run.tags
            )
            made.append(
                " ".join(sorted(key.to_user_string() for key in run.keys)) + (f" {run.partition or ''}").rstrip()
            )
        return made, plan.skipped


@pytest.fixture
def graph(tmp_path, instance):
    graph = Graph(tmp_path, instance)
    assert graph.make() == (["source table", "part north", "part south", "total"], 0)
    return graph


def test_nothing_is_made_a_second_time_unless_forced(graph):
    assert graph.make() == ([], 5)
    assert graph.make(force=True) == (["source table", "part north", "part south", "total"], 0)


def test_a_change_spreads_as_far_as_data_versions_change(graph):
    graph.io_manager.locate(source.key).unlink()
    assert graph.make() == (["source"], 4)  # it comes out as it was
    CONTENT["source"] = "sun"
    graph.io_manager.locate(source.key).unlink()
    assert graph.make() == (["source", "table"], 3)  # the table holds its first letter only
    CONTENT["source"] = "moon"
    graph.io_manager.locate(source.key).unlink()
    assert graph.make() == (["source", "table", "part north", "part south", "total"], 0)
    assert graph.make() == ([], 5)


def test_another_setting_makes_what_uses_it(graph):
    assert graph.make(suffix="!") == (["table", "part north", "part south", "total"], 1)
    assert graph.make(suffix="!") == ([], 5)


def test_a_changed_file_is_made_again_alone(graph):
    path = graph.io_manager.locate(part.key, "south")
    path.write_text("damaged")
    assert graph.make() == (["part south"], 4)
    assert path.read_text() == "south s"


def test_a_failed_check_is_evaluated_again_and_a_warning_is_not(graph):
    CONTENT["failing"] = "part"
    assert graph.make(force=True)[1] == 0
    assert graph.make() == (["part north", "part south"], 3)  # each is made once, though its check fails again
    CONTENT["failing"] = ""
    assert graph.make() == (["part north", "part south"], 3)
    assert graph.make() == ([], 5)
