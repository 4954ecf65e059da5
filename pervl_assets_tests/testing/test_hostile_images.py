"""Corrupted images: each is quarantined with its reason, and only its own files are lost."""

import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from pervl_assets.io_managers.base import locate_value
from pervl_assets.testing.hostile_archives import change_members
from pervl_assets.testing.hostile_images import cut_jpeg, shrink_image, turn_cmyk, turn_grey
from pervl_assets.testing.runs import explain, list_checks
from pervl_assets.testing.worlds import locate_raw
from pervl_assets_tests.core.samples import draw_picture, save_jpeg, save_mask

CORRUPTED = {
    cut_jpeg: ("JPEGImages", "the frame cannot be decoded"),
    turn_grey: ("JPEGImages", "the frame has mode L, not RGB"),
    turn_cmyk: ("JPEGImages", "the frame has mode CMYK, not RGB"),
    shrink_image: ("Annotations", "the mask has "),
}


def test_every_corrupted_image_of_a_tree_is_quarantined(data, materialize):
    tables = materialize('+key:"ytvos/concepts"')
    assert tables.success, explain(tables)
    concepts = pl.read_parquet(locate_value(data, ["ytvos", "concepts"], ".parquet"))
    frames = concepts.unique("scene", keep="first", maintain_order=True).select("scene", "evaluation_frame").rows()
    victims = {
        f"train/{folder}/{scene}/{frame}.{'png' if folder == 'Annotations' else 'jpg'}": (corrupt, reason)
        for (corrupt, (folder, reason)), (scene, frame) in zip(CORRUPTED.items(), frames, strict=False)
    }
    archive = locate_raw(data, "youtube_vos_train")
    change_members(archive, lambda name, old: victims[name][0](old) if name in victims else old)
    result = materialize('+key:"ytvos/fsl_seg"')
    assert result.success, explain(result)
    ledger = pl.read_parquet(locate_value(data, ["ytvos", "fsl_seg"], ".parquet"))
    bad = ledger.filter(status="quarantined").explode("source_members").filter(pl.col("source_members").is_in(victims))
    assert set(bad["source_members"]) == set(victims)
    for member, reason in bad.select("source_members", "reason").iter_rows():
        assert victims[member][1] in reason
    assert not list_checks(result)["ytvos/fsl_seg:nothing_quarantined"].passed
    assert ledger.filter(status="quarantined").height == bad.height
    assert ledger["status"].unique().sort().to_list() == ["quarantined", "written"]


def open_image(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def test_corrupted_images_have_the_described_faults():
    jpeg = save_jpeg(draw_picture(40, 30))
    assert (open_image(turn_grey(jpeg)).mode, open_image(turn_cmyk(jpeg)).mode) == ("L", "CMYK")
    assert cut_jpeg(jpeg, 0.75) == jpeg[: len(jpeg) * 3 // 4]
    with pytest.raises(OSError, match="truncated"):
        open_image(cut_jpeg(jpeg))
    mask = save_mask(draw_picture(40, 30)[..., 0] % 3)
    smaller = open_image(shrink_image(mask))
    assert (smaller.format, smaller.mode, smaller.size) == ("PNG", "P", (39, 29))
    assert smaller.getpalette() == open_image(mask).getpalette()
    assert np.array_equal(np.asarray(smaller), np.asarray(open_image(mask))[:29, :39])
