import io
import json

import dagster as dg
import pytest
from rich.console import Console

from pervl_assets.cli.materialize import show_plan
from pervl_assets.cli.plans import encode_plan, list_absent, print_plan
from pervl_assets.cli.runs import read_instance
from pervl_assets.definitions import build_definitions
from pervl_assets.defs import runs
from pervl_assets.defs.runs import Plan
from pervl_assets.defs.selections import select_assets
from pervl_assets.testing.runs import make_settings

COCO = "inversion_model_train_data/train2014.zip"
FSL_SEG, SET = dg.AssetKey(["ytvos", "fsl_seg"]), dg.AssetKey(["ytvos", "retrieval_set"])


@pytest.fixture
def plan(tmp_path, instance, monkeypatch):
    """A plan of PerVL-YTVOS, in which a few values are outdated."""
    reasons = {(FSL_SEG, None): "settings changed: splits [official] → scene_disjoint", (SET, "test"): "a check failed"}
    monkeypatch.setattr(
        runs,
        "explain_outdated",
        lambda graph, _, values, resources: {one: reasons[one] for one in values if one in reasons},
    )
    graph = build_definitions(make_settings(tmp_path)).resolve_asset_graph()
    return Plan(graph, instance, select_assets(graph, "group:ytvos"), {})


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_plan_says_what_is_made_in_which_run_and_why_and_what_may_follow(plan, width):
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    print_plan(console, plan, {})
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    text = " ".join(" ".join(lines).split())
    assert lines.index("run 1") < lines.index("run 2, test")
    assert "ytvos/retrieval_set a check failed" in lines
    if width == 120:
        assert "ytvos/fsl_seg settings changed: splits [official] → scene_disjoint" in lines
    assert "2 values in 2 runs would be made, 5 up to date; nothing was written" in text
    assert text.endswith(
        "Up to 3 more, where these change: ytvos/retrieval_set [validation], "
        "ytvos/imagefolder_view [validation], ytvos/imagefolder_view [test]"
    )
    assert max(map(len, console.file.getvalue().splitlines())) <= width


def test_a_plan_as_json(plan):
    content = json.loads(encode_plan(plan, {(dg.AssetKey(["raw", "a"]), None): "gone"}))
    assert content["runs"][1] == {
        "partition": "test",
        "values": [{"asset": "ytvos/retrieval_set", "partition": "test", "reason": "a check failed"}],
    }
    assert content["up_to_date"] == 5
    assert {"asset": "ytvos/imagefolder_view", "partition": "test"} in content["may_follow"]
    assert content["outdated_inputs"] == [{"asset": "raw/a", "partition": None, "reason": "gone"}]


def test_a_dry_run_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PERVL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("PERVL_PROFILE", "demo")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    show_plan(["ytvos"])
    text = " ".join(capsys.readouterr().out.split())
    assert "missing and not selected, it was never materialized: raw/pervl_annotations, raw/youtube_vos_train" in text
    assert "pervl materialize +ytvos makes these first" in text
    assert "would be made once their inputs are, 0 up to date; nothing was written" in text
    show_plan(["ytvos/fsl_seg"], as_json=True)
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert run["values"] == [{"asset": "ytvos/fsl_seg", "partition": None, "reason": "it was never materialized"}]
    assert not [*tmp_path.iterdir()]
    (tmp_path / "home/history").mkdir(parents=True)
    with read_instance(tmp_path / "data") as instance:
        assert instance.root_directory == str(tmp_path / "home")


@pytest.mark.parametrize(
    ("changes", "absent"),
    [
        ({"profile": "demo"}, []),
        ({"profile": "full", "fetch": "official"}, ["youtube_vos/train.zip"]),
        ({"profile": "full", "fetch": "off"}, ["youtube_vos/train.zip", COCO]),
        ({"profile": "demo", "raw": "elsewhere"}, ["youtube_vos/train.zip", COCO]),
    ],
)
def test_inputs_that_no_run_can_get_are_absent(tmp_path, changes, absent):
    if "raw" in changes:
        changes = {**changes, "raw": tmp_path / "raw"}
    values = [(dg.AssetKey(["raw", name]), None) for name in ("youtube_vos_train", "coco_train2014")]
    assert list_absent(make_settings(tmp_path, **changes), [*values, (FSL_SEG, None)]) == absent


def test_a_plan_names_the_inputs_without_which_it_would_fail(plan):
    console = Console(file=io.StringIO(), width=120)
    print_plan(console, plan, {}, [COCO])
    assert f"not found: {COCO}; what is made from it would fail" in console.file.getvalue()
