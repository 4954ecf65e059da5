"""Contact sheets are small, reproducible, with box and mask; the preview of a concept shows all of its images."""

import io

import numpy as np
import pytest
from PIL import Image

from pervl_assets.core.pixels import encode_jpeg, encode_mask
from pervl_assets.trees.contact_sheet import MAX_BYTES, SheetRoles, draw_concept, draw_contact_sheet
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


def make_tree(root, concepts, size=(160, 90), *, noise=False):
    rows = []
    rng = np.random.default_rng(0)
    mask = np.zeros(size[::-1], bool)
    mask[20:60, 40:100] = True
    for number in range(concepts):
        concept = f"cat_{number:02}"
        for role, count in (("shot", number + 1), ("frame", 1), ("mask", 1)):
            for index in range(count):
                pixels = rng.integers(0, 256, (*size[::-1], 3), np.uint8) if noise else draw_picture(*size) // 4
                data = encode_mask(mask) if role == "mask" else encode_jpeg(pixels)
                path = f"{role}/{concept}_{index}.{'png' if role == 'mask' else 'jpg'}"
                row = write(root, path, concept, role, data)
                box = None if role == "shot" else [40, 20, 99, 59]
                rows.append({**row, "box": box, "width": size[0], "height": size[1]})
    return FolderTree(root, build_frame(rows))


def decode(sheet):
    image = Image.open(io.BytesIO(sheet))
    assert image.format == "JPEG"
    return np.asarray(image).astype(int)


def test_box_and_mask_are_drawn_over_the_evaluation_frame(tmp_path):
    tree = make_tree(tmp_path, 1)
    with_mask, without = (decode(draw_contact_sheet(tree, roles)) for roles in (ROLES, SheetRoles("shot", ("frame",))))

    def count_yellow(sheet):
        return int((np.minimum(sheet[..., 0], sheet[..., 1]) - sheet[..., 2] > 60).sum())

    assert count_yellow(without) > 100
    assert count_yellow(decode(draw_contact_sheet(tree, SheetRoles("shot", ("shot",))))) == 0
    reddened = with_mask[..., 0] - with_mask[..., 1] - (without[..., 0] - without[..., 1])
    assert (reddened > 40).sum() > 500


def test_the_same_seed_draws_the_same_concepts(tmp_path):
    tree = make_tree(tmp_path, 9)
    assert draw_contact_sheet(tree, ROLES, concepts=3, seed=1) == draw_contact_sheet(tree, ROLES, concepts=3, seed=1)
    assert draw_contact_sheet(tree, ROLES, concepts=3, seed=1) != draw_contact_sheet(tree, ROLES, concepts=3, seed=2)


@pytest.mark.parametrize("concepts", [0, 1, 40])
def test_a_sheet_is_never_too_large(tmp_path, concepts):
    sheet = draw_contact_sheet(make_tree(tmp_path, min(concepts, 12), noise=True), ROLES, concepts=concepts)
    assert 0 < len(sheet) <= MAX_BYTES
    assert decode(sheet).ndim == 3


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
