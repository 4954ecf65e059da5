import re

import dagster as dg
import pytest

from pervl_assets.core.errors import PervlError
from pervl_assets.definitions import defs
from pervl_assets.defs.selections import select_assets

GROUPS = "deep_fashion, evaluation, inversion, palavra, raw, release, training, ytvos"


@pytest.fixture(scope="module")
def graph():
    return defs.resolve_asset_graph()


def choose(graph, selection: str) -> set[str]:
    return {key.to_user_string() for key in select_assets(graph, selection)}


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("ytvos/fsl_seg", 'key:"ytvos/fsl_seg"'),
        ("ytvos", "group:ytvos"),
        ("ytvos/*", 'key:"ytvos/*"'),
        ("evaluation/ytvos", 'key:"evaluation/ytvos/*"'),
        ("1+evaluation/ytvos or ytvos", '1+key:"evaluation/ytvos/*" or group:ytvos'),
        ("+palavra/object_names", '+key:"palavra/object_names"'),
        ("1+ytvos/fsl_seg", '1+key:"ytvos/fsl_seg"'),
        ("raw/youtube_vos_train+1", 'key:"raw/youtube_vos_train"+1'),
        ("(ytvos) or not (kind:parquet)", "group:ytvos or not kind:parquet"),
        ("ytvos AND kind:parquet", "group:ytvos and kind:parquet"),
        ("roots(+ytvos)", "roots(+group:ytvos)"),
        ("*", 'key:"*"'),
        ('tag:"pervl/value"="table"', "tag:pervl/value=table"),
    ],
)
def test_a_name_is_a_key_or_a_group_anywhere_in_a_selection(graph, short, long):
    assert choose(graph, short) == choose(graph, long)


def test_the_outputs_of_a_multi_asset_are_selected_together(graph):
    outputs = {"inversion/coco_triplets", "inversion/coco_malformed_lines"}
    assert choose(graph, 'key:"inversion/coco_triplets"') == choose(graph, "inversion/coco_triplets") == outputs


def test_an_asset_is_chosen_before_what_is_below_its_name():
    @dg.asset(key=["a", "b"])
    def one(): ...

    @dg.asset(key=["a", "b", "c"])
    def two(): ...

    small = dg.Definitions([one, two]).resolve_asset_graph()
    assert choose(small, "a/b") == {"a/b"}
    assert choose(small, "a") == {"a/b", "a/b/c"}


@pytest.mark.parametrize("selection", ["grop:ytvos", 'key:"a', "", "ytvos or", "ytvos and palavra", "ytvos palavra"])
def test_bad_selections_list_the_groups(graph, selection):
    with pytest.raises(PervlError, match=GROUPS):
        select_assets(graph, selection)


@pytest.mark.parametrize(
    ("selection", "problem", "similar"),
    [
        ("ytvoss", "No asset and no group is named 'ytvoss'", "ytvos?"),
        ("ytvos or palavr", "No asset and no group is named 'palavr'", "palavra, palavra/object_names, "),
        ("fsl_seg", "No asset and no group is named 'fsl_seg'", "ytvos/fsl_seg?"),
        ("+ytvos/fsl_sg", "No asset and no group is named 'ytvos/fsl_sg'", "ytvos/fsl_seg?"),
        ("not group:ytvo", "No asset has the group 'ytvo'", "ytvos?"),
        ('key:"ytvos/fsl_sg"', "No asset has the key 'ytvos/fsl_sg'", "ytvos/fsl_seg?"),
        ("kind:parket", "No asset has the kind 'parket'", "parquet"),
    ],
)
def test_a_name_that_selects_nothing_is_an_error_with_similar_names(graph, selection, problem, similar):
    with pytest.raises(PervlError, match=f"^{re.escape(problem)}.\nWhat to do: Did you mean {re.escape(similar)}"):
        select_assets(graph, selection)


def test_a_name_like_no_other_is_an_error_with_the_groups(graph):
    with pytest.raises(PervlError, match=f"Choose one of these: {GROUPS}. pervl list shows all."):
        select_assets(graph, "zzz")
    with pytest.raises(PervlError, match=r"Choose one of these: .*parquet"):
        select_assets(graph, "ytvos and kind:zzz")


def test_groups_that_are_joined_by_and_have_nothing_in_common(graph):
    with pytest.raises(PervlError, match="has no asset") as caught:
        select_assets(graph, "ytvos and deep_fashion")
    assert f"write X or Y. Name a group ({GROUPS}), an asset, e.g. ytvos/fsl_seg, or the first" in str(caught.value)
