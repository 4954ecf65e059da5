import io

import numpy as np
import pytest

from pervl_assets.clip import merge
from pervl_assets.clip.merge import iterate_merged, merge_features
from pervl_assets.core.errors import PervlError
from pervl_assets_tests.clip.test_features import REJECTED, make_features


def test_merged_shards_are_in_text_order():
    shards = [make_features(["9712 ", "98 "], 1, rejected=REJECTED[:1]), make_features(["10136 ", "9712"], 2)]
    merged = merge_features(shards)
    assert merged.ids == sorted(merged.ids) == ["10136 ", "9712", "9712 ", "98 "]
    assert np.array_equal(merged.vectors, np.stack([shards[1].vectors[0], shards[1].vectors[1], *shards[0].vectors]))
    assert merged.rejected["id"].to_list() == ["3 "]


def test_shards_that_do_not_go_together_are_refused():
    with pytest.raises(PervlError, match=r"Shards 0 and 1 .*differently: precision fp32 / fp16"):
        merge_features([make_features(["1 "]), make_features(["2 "], precision="fp16")])
    with pytest.raises(PervlError, match="1 image in two shards: '1 '"):
        merge_features([make_features(["1 "]), make_features(["1 ", "2 "])])
    with pytest.raises(PervlError, match="no features to merge"):
        merge_features([])


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_blocks_are_the_merged_shards(block, monkeypatch):
    monkeypatch.setattr(merge, "_BLOCK", block)
    names = np.random.default_rng(0).permutation(60)
    shards = [make_features([f"{n} " for n in names[start::7]], seed=start) for start in range(7)]
    shards.append(make_features([]))
    blocks = [*iterate_merged(iter(shards), io.BytesIO())]
    merged = merge_features(shards)
    assert [image_id for one in blocks for image_id in one.ids] == merged.ids
    assert np.array_equal(np.concatenate([one.vectors for one in blocks]), merged.vectors)
    assert {len(one.ids) for one in blocks[:-1]} <= {block}
    assert blocks[0].passport == merged.passport


def test_blocks_of_shards_that_do_not_go_together_are_refused():
    for shards, problem in (
        ([make_features(["1 "]), make_features(["2 "], precision="fp16")], "Shards 0 and 1"),
        ([make_features(["1 "]), make_features(["1 ", "2 "])], "1 image in two shards"),
        ([], "no features to merge"),
    ):
        with pytest.raises(PervlError, match=problem):
            next(iterate_merged(iter(shards), io.BytesIO()))
