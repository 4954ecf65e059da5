"""Contact sheets: small, reproducible, with box and mask."""

import io

import numpy as np
import pytest
from PIL import Image

from pervl_assets.core.pixels import encode_jpeg, encode_mask
from pervl_assets.trees.contact_sheet import MAX_BYTES, SheetRules, draw_contact_sheet
from pervl_assets.trees.ledger import FolderTree, build_frame
from pervl_assets.trees.plans import Output, fill_row, record_bytes, start_row
from pervl_assets_tests.core.samples import draw_picture

RULES = SheetRules("shot", ("frame",), "mask")


def make_tree(root, concepts, size=(160, 90), *, noise=False):
    rows = []
    rng = np.random.default_rng(0)
    mask = np.zeros(size[::-1], bool)
    mask[20:60, 40:100] = True
    for number in range(concepts):
        concept = f"cat_{number:02}"
        for rule, count in (("shot", number + 1), ("frame", 1), ("mask", 1)):
            for index in range(count):
                pixels = rng.integers(0, 256, (*size[::-1], 3), np.uint8) if noise else draw_picture(*size) // 4
                data = encode_mask(mask) if rule == "mask" else encode_jpeg(pixels)
                path = f"{rule}/{concept}_{index}.{'png' if rule == 'mask' else 'jpg'}"
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(data)
                row = fill_row(
                    start_row(1, Output(path, concept, rule), (f"{number}{rule == 'shot'}",), [1]), record_bytes(data)
                )
                box = None if rule == "shot" else [40, 20, 99, 59]
                rows.append({**row, "box": box, "width": size[0], "height": size[1]})
    return FolderTree(root, build_frame(rows))


def decode(sheet):
    image = Image.open(io.BytesIO(sheet))
    assert image.format == "JPEG"
    return np.asarray(image).astype(int)


def test_box_and_mask_are_drawn_over_the_evaluation_frame(tmp_path):
    tree = make_tree(tmp_path, 1)
    with_mask, without = (decode(draw_contact_sheet(tree, rules)) for rules in (RULES, SheetRules("shot", ("frame",))))

    def count_yellow(sheet):
        return int((np.minimum(sheet[..., 0], sheet[..., 1]) - sheet[..., 2] > 60).sum())

    assert count_yellow(without) > 100
    assert count_yellow(decode(draw_contact_sheet(tree, SheetRules("shot", ("shot",))))) == 0
    reddened = with_mask[..., 0] - with_mask[..., 1] - (without[..., 0] - without[..., 1])
    assert (reddened > 40).sum() > 500


def test_the_same_seed_draws_the_same_concepts(tmp_path):
    tree = make_tree(tmp_path, 9)
    assert draw_contact_sheet(tree, RULES, concepts=3, seed=1) == draw_contact_sheet(tree, RULES, concepts=3, seed=1)
    assert draw_contact_sheet(tree, RULES, concepts=3, seed=1) != draw_contact_sheet(tree, RULES, concepts=3, seed=2)


@pytest.mark.parametrize("concepts", [0, 1, 40])
def test_a_sheet_is_never_too_large(tmp_path, concepts):
    sheet = draw_contact_sheet(make_tree(tmp_path, min(concepts, 12), noise=True), RULES, concepts=concepts)
    assert 0 < len(sheet) <= MAX_BYTES
    assert decode(sheet).ndim == 3
