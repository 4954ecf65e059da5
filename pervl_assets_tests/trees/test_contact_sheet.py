"""Strips of a concept show box and mask; the preview of a concept shows all of its images."""

import io

import numpy as np
import polars as pl
import pytest
from PIL import Image

from pervl_assets.core.pixels import encode_jpeg, encode_mask
from pervl_assets.trees.contact_sheet import SheetRoles, draw_concept, draw_strip, list_concepts
from pervl_assets.trees.ledger import FolderTree, build_frame
from pervl_assets.trees.plans import Output, fill_row, record_bytes, start_row
from pervl_assets_tests.core.samples import draw_picture

ROLES = SheetRoles("shot", ("frame",), "mask")


def write(root, path, concept, role, data):
    """Write a file of a tree; return its row. The few-shot images of a concept have one source, the others another."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(data)
    source = (f"{concept} {role == 'shot'}",)
    return fill_row(start_row(1, Output(path, concept, role), source, [1]), record_bytes(data))


def make_tree(root, concepts, size=(160, 90)):
    rows = []
    mask = np.zeros(size[::-1], bool)
    mask[size[1] * 2 // 9 : size[1] * 6 // 9, size[0] // 4 : size[0] * 5 // 8] = True
    for number in range(concepts):
        concept = f"cat_{number:02}"
        for role, count in (("shot", number + 1), ("frame", 1), ("mask", 1)):
            for index in range(count):
                pixels = draw_picture(*size) // 4
                data = encode_mask(mask) if role == "mask" else encode_jpeg(pixels)
                path = f"{role}/{concept}_{index}.{'png' if role == 'mask' else 'jpg'}"
                row = write(root, path, concept, role, data)
                box = [size[0] // 4, size[1] * 2 // 9, size[0] * 5 // 8 - 1, size[1] * 6 // 9 - 1]
                box = None if role == "shot" else box
                rows.append({**row, "box": box, "width": size[0], "height": size[1]})
    return FolderTree(root, build_frame(rows))


def decode(strip):
    image = Image.open(io.BytesIO(strip.image))
    assert image.format == "WEBP"
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("size", [(160, 90), (1280, 720)])  # the larger one is decoded at a fraction of its size
def test_box_and_mask_are_drawn_over_the_evaluation_frame(tmp_path, size):
    tree = make_tree(tmp_path, 1, size)
    with_mask, without = (
        decode(draw_strip(tree, roles, "cat_00")) for roles in (ROLES, SheetRoles("shot", ("frame",)))
    )

    def count_yellow(strip):
        return int((np.minimum(strip[..., 0], strip[..., 1]) - strip[..., 2] > 60).sum())

    assert count_yellow(without) > 40
    assert count_yellow(decode(draw_strip(tree, SheetRoles("shot", ("shot",)), "cat_00"))) == 0
    reddened = with_mask[..., 0] - with_mask[..., 1] - (without[..., 0] - without[..., 1])
    assert (reddened > 40).sum() == pytest.approx(84 * 84 * 9 / 16 / 6, rel=0.25)  # a sixth of the frame


def test_few_shot_images_are_evenly_chosen_and_all_are_counted(tmp_path):
    tree = make_tree(tmp_path, 9)
    assert list_concepts(tree, ROLES) == [f"cat_{number:02}" for number in range(9)]
    strip = draw_strip(tree, ROLES, "cat_08", 4, 1, 50)
    assert (strip.few_shot, strip.evaluation) == (9, 1)
    assert decode(strip).shape == (50, 5 * 54 - 4, 3)


def test_a_place_without_an_image_stays_white(tmp_path):
    (tmp_path / "shot").mkdir()
    tree = make_tree(tmp_path, 1)
    status = pl.when(pl.col("rule") == "frame").then(pl.lit("missing")).otherwise("status")
    strip = draw_strip(FolderTree(tmp_path, tree.ledger.with_columns(status=status)), ROLES, "cat_00", 1, 1, 50)
    assert (strip.few_shot, strip.evaluation) == (1, 0)
    assert (decode(strip)[:, 58:] > 245).all()


ALL_RULES = SheetRoles("shot", ("frame", "crop"), "mask")
BLUE, GREEN, GREY = (20, 40, 230), (20, 200, 40), (128, 128, 128)
WIDTH = 1200


def paint(colour, width=80, height=60):
    return encode_jpeg(np.full((height, width, 3), colour, np.uint8))


def make_one(root, shots=3, broken=()):
    mask = np.zeros((90, 160), bool)
    mask[30:60, 40:100] = True
    files = [(f"shot/cat_1_{number:05}.jpg", "shot", paint(BLUE)) for number in range(shots)]
    files += [("frame/cat_1_9.jpg", "frame", paint(GREY, 160, 90)), ("mask/cat_1_9.png", "mask", encode_mask(mask))]
    files += [("crop/cat_1_9.jpg", "crop", paint(GREEN)), ("shot/dog_1_0.jpg", "shot", paint((255, 0, 0)))]
    rows = []
    for path, role, data in files:
        row = write(root, path, path.split("/")[1][:5], role, data)
        size = {"box": [40, 30, 99, 59], "width": 160, "height": 90}
        if path in broken:
            row |= {"status": "quarantined", "reason": "the mask does not contain this instance", "sha256": None}
        rows.append({**row, **size})
    return FolderTree(root, build_frame(rows))


def draw(tree, **more):
    with Image.open(io.BytesIO(draw_concept(tree, ALL_RULES, "cat_1", **more))) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def count(pixels, colour, within=24):
    return int((np.abs(pixels - colour).max(axis=2) < within).sum())


@pytest.mark.parametrize("shots", [1, 3, 40])
def test_all_images_of_the_concept_are_drawn_and_none_of_another(tmp_path, shots):
    pixels = draw(make_one(tmp_path, shots))
    assert pixels.shape[1] == WIDTH
    assert count(pixels, BLUE) == pytest.approx(shots * 200 * 150, rel=0.05)  # 80 x 60, enlarged to a height of 150
    assert count(pixels, GREEN) == pytest.approx(440 * 330, rel=0.05)
    assert count(pixels, (255, 0, 0)) == 0


def test_box_and_mask_are_drawn_over_the_evaluation_frame_alone(tmp_path):
    pixels = draw(make_one(tmp_path))
    assert count(pixels, (255, 255, 0), 60) > 1000
    shaded = pixels[..., 0] - pixels[..., 1] > 30
    enlarged = 330 / 90
    assert shaded.sum() == pytest.approx(60 * 30 * enlarged**2, rel=0.1)  # all of it: the box is outside


def test_a_tiny_image_is_enlarged_ten_times_and_no_more(tmp_path):
    tree = make_one(tmp_path, 1)
    (tmp_path / "shot/cat_1_00000.jpg").write_bytes(paint(BLUE, 8, 4))
    assert count(draw(tree), BLUE) == pytest.approx(80 * 40, rel=0.1)


def test_texts_are_wrapped_within_the_width(tmp_path):
    tree = make_one(tmp_path)
    plain, described = draw(tree), draw(tree, texts=[("class", "cat"), ("caption", "a * on a wall " * 40)])
    assert described.shape[0] - plain.shape[0] >= 5 * 24
    assert (described[: described.shape[0] - plain.shape[0], WIDTH - 20 :] == 255).all()  # nothing leaves the image


@pytest.mark.parametrize("how", ["quarantined", "deleted", "damaged"])
def test_a_missing_image_is_a_card(tmp_path, how):
    path = "shot/cat_1_00001.jpg"
    tree = make_one(tmp_path, broken=(path,) if how == "quarantined" else ())
    if how == "deleted":
        (tmp_path / path).unlink()
    if how == "damaged":
        (tmp_path / path).write_bytes(b"no picture")
    pixels = draw(tree)
    assert count(pixels, BLUE) == pytest.approx(2 * 200 * 150, rel=0.05)
    assert count(pixels, (252, 236, 234), 3) > 20_000
