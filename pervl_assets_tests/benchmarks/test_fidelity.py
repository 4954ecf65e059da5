"""Every file of every tree against an oracle written here, from the rules alone, with numpy and Pillow.

The oracle imports nothing of the package. What is compared byte for byte is so because Pillow's quality 95 writes
OpenCV's bytes (compared with OpenCV's own in `core/test_pixels.py`); masks are compared by their pixels.
"""

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pervl_assets_tests.benchmarks.worlds import (
    PASSWORD,
    build_deep_fashion,
    build_ytvos,
    draw_deep_fashion,
    draw_ytvos,
    read_members,
    write_deep_fashion_annotations,
    write_ytvos_annotations,
)

KIT = Path(__file__).parents[2].parent / "shared" / "raw_kit" / "make_raw.py"
SETS = {"validation": "cleaned_captions_ytvos_val.csv", "test": "cleaned_captions_ytvos_test.csv"}


# ---- the oracle


def to_jpeg(pixels):
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=95, subsampling="4:2:0")
    return buffer.getvalue()


def spread_outline(height, width, x0, y0, x1, y1):
    """Return where the outline of a box, spread by a plus of 3 by 3 pixels, falls."""
    outline = {(x, y) for x in range(x0, x1 + 1) for y in (y0, y1)} | {
        (x, y) for x in (x0, x1) for y in range(y0, y1 + 1)
    }
    band = np.zeros((height, width), bool)
    for x, y in outline:
        for dx, dy in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
            if 0 <= x + dx < width and 0 <= y + dy < height:
                band[y + dy, x + dx] = True
    return band


def expect_ytvos(members, folder):
    """Return the files of `fsl_seg` and of both retrieval sets: bytes of JPEGs and YAML, arrays of masks."""
    tree, boxes = {}, {}
    for concept, meta in yaml.safe_load((folder / "ytvos_personalization_meta.yaml").read_text()).items():
        for frame in [*meta["train_frames"], meta["test_frame"]]:
            scene = meta["scene_id"]
            pixels = np.array(Image.open(io.BytesIO(members[f"train/JPEGImages/{scene}/{frame}.jpg"])))
            indices = np.array(Image.open(io.BytesIO(members[f"train/Annotations/{scene}/{frame}.png"])))
            mask = indices == int(meta["instance_id"])
            ys, xs = np.nonzero(mask)
            x0, y0, x1, y1 = int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max())
            if frame != meta["test_frame"]:
                tree[f"train/{concept}/{concept}_{frame}.jpg"] = to_jpeg(pixels[y0:y1, x0:x1])
                continue
            height, width = mask.shape
            name = f"{concept}_{frame}"
            grown = np.array([x0, y0, x1, y1]) + 0.5 * np.array([x0 - x1, y0 - y1, x1 - x0, y1 - y0])
            left, top, right, bottom = np.clip(grown, 0, [width, height, width, height]).astype(int)
            banded = pixels.copy()
            banded[spread_outline(height, width, x0, y0, x1, y1)] = (255, 255, 0)
            tree[f"eval/images/{name}.jpg"] = to_jpeg(pixels)
            tree[f"eval/images_with_bbox/{name}.jpg"] = to_jpeg(banded)
            tree[f"eval/retrieval/{name}.jpg"] = to_jpeg(pixels[top:bottom, left:right])
            tree[f"eval/gt_mask/{name}.png"] = mask.astype(np.uint8)
            boxes[concept] = [x0, y0, x1, y1]
    sets = {split: expect_retrieval_set(tree, folder / name) for split, name in SETS.items()}
    return tree, boxes, sets


def expect_retrieval_set(tree, captions):
    files = {}
    for row in csv.DictReader(captions.read_text().splitlines()):
        stem = Path(row["image_name"]).stem
        concept = "_".join(stem.split("_")[:-1])
        files[f"eval/test/{concept}.jpg"] = tree[f"eval/retrieval/{stem}.jpg"]
        crops = [path for path in tree if path.startswith(f"train/{concept}/")]
        files |= {f"codes_infer/{concept}/{Path(path).name}": tree[path] for path in crops}
    return files


def expect_deep_fashion(members, folder, split):
    files = {}
    for line in (folder / f"{split}_fsl_train.txt").read_text().split("\n"):
        if line.startswith("codes_infer/"):
            pair = line.strip()[len("codes_infer/") : -1]
        elif line.strip():
            files[f"codes_infer/{pair}/{line.strip()}"] = members[f"train/image/{line.strip()}"]
    for row in csv.DictReader((folder / f"{split}_captions.csv").read_text().splitlines()):
        files[f"eval/test/{Path(row['image_name']).name}"] = members[row["image_name"]]
    return files


def compare(root, expected):
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    assert sorted(found) == sorted(expected)
    for path, content in expected.items():
        if isinstance(content, bytes):
            assert found[path].read_bytes() == content, path
        else:
            image = Image.open(found[path])
            assert image.mode == "L", path
            assert np.array_equal(np.asarray(image), content), path
    empty = [path for path in root.rglob("*") if path.is_dir() and not any(path.iterdir())]
    assert not empty


def compare_ytvos(root, trees, members, folder):
    tree, boxes, sets = expect_ytvos(members, folder)
    base = root / "youtube_vos/ytvos_PerVL/fsl_seg"
    labels = (base / "eval/gt_box_labels.yaml").read_bytes()
    assert yaml.safe_load(labels) == boxes
    assert list(yaml.safe_load(labels)) == sorted(boxes)
    compare(base, {**tree, "eval/gt_box_labels.yaml": labels})
    for split, expected in sets.items():
        compare(root / "youtube_vos/retrival_sets" / split, expected)
    assert all(built.quarantined == built.missing == 0 for built in trees.values())


# ---- the comparisons


def test_ytvos_trees(tmp_path):
    folder = write_ytvos_annotations(tmp_path / "annotations")
    members = draw_ytvos()
    compare_ytvos(tmp_path, build_ytvos(tmp_path, members, folder), members, folder)


def test_the_box_labels_are_plain_yaml(tmp_path):
    build_ytvos(tmp_path, draw_ytvos(), write_ytvos_annotations(tmp_path / "annotations"))
    assert (tmp_path / "youtube_vos/ytvos_PerVL/fsl_seg/eval/gt_box_labels.yaml").read_text() == (
        "dog_1336440745_1: [3, 7, 36, 25]\n"
        "dog_13e3070469_1: [31, 0, 32, 47]\n"
        "giant_panda_1336440745_2: [70, 30, 94, 52]\n"
    )


def test_deep_fashion_trees(tmp_path):
    folder = write_deep_fashion_annotations(tmp_path / "annotations")
    members = draw_deep_fashion()
    build_deep_fashion(tmp_path, members, folder)
    for split in ("validation", "test"):
        root = tmp_path / f"deep_fashion2/personalized_{split}"
        compare(root, expect_deep_fashion(members, folder, split))
    assert sorted(path.name for path in (root / "eval/test").iterdir()) == ["000023.jpg", "000024.jpg"]


def test_plain_and_encrypted_archives_have_the_same_tree(tmp_path):
    folder = write_deep_fashion_annotations(tmp_path / "annotations")
    encrypted = build_deep_fashion(tmp_path / "encrypted", draw_deep_fashion(), folder)
    assert read_members(tmp_path / "encrypted/deep_fashion2/train.zip", PASSWORD) == draw_deep_fashion()
    loose = tmp_path / "loose/deep_fashion2/train"
    for name, data in draw_deep_fashion().items():
        file = loose / name.removeprefix("train/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    for split, tree in build_from_folder(tmp_path / "loose", loose, folder).items():
        assert tree.content_hash == encrypted[split].content_hash


def build_from_folder(root, loose, folder):
    from pervl_assets.archives.inputs import find_archive
    from pervl_assets.archives.members import open_members
    from pervl_assets.benchmarks.deep_fashion import BENCHMARK
    from pervl_assets.trees.build import build_tree, commit_tree
    from pervl_assets_tests.benchmarks.worlds import read_tables

    (spec,), tree = BENCHMARK.archives, BENCHMARK.trees[0]
    archive = find_archive(spec, root)
    assert archive.path == loose
    built = {}
    for split in tree.splits:
        with open_members(archive) as members:
            plan = tree.plan(read_tables(BENCHMARK, folder), split)
            built[split] = commit_tree(build_tree(plan, members, root / plan.folder))
    return built


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    if not KIT.is_file():
        pytest.skip(f"the kit that draws raw archives with real names is not at {KIT}")
    root = tmp_path_factory.mktemp("kit")
    done = subprocess.run(
        [sys.executable, str(KIT), str(root), "--scale", "small", "--parts", "ytvos,df2"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"the kit could not draw its archives: {done.stderr.strip().splitlines()[-1:]}")
    return root


def test_ytvos_trees_of_the_kit(kit, tmp_path):
    path, folder = kit / "youtube_vos/train.zip", kit / "annotations/ytvos"
    compare_ytvos(tmp_path, build_ytvos(tmp_path, path, folder), read_members(path), folder)


def test_deep_fashion_trees_of_the_kit(kit, tmp_path):
    password = (kit / "deep_fashion2/PASSWORD.txt").read_text().strip()
    path, folder = kit / "deep_fashion2/train_encrypted.zip", kit / "annotations/deep_fashion"
    build_deep_fashion(tmp_path, path, folder, password)
    members = read_members(kit / "deep_fashion2/train.zip")
    for split in ("validation", "test"):
        compare(tmp_path / f"deep_fashion2/personalized_{split}", expect_deep_fashion(members, folder, split))
