"""A small YouTube-VOS and a small DeepFashion2, with the quirks of the real ones."""

import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.archives.members import open_members
from pervl_assets.benchmarks import deep_fashion, ytvos, ytvos_annotations
from pervl_assets.trees.build import build_tree, commit_tree
from pervl_assets.trees.ledger import FolderTree
from pervl_assets.trees.members import open_tree
from pervl_assets_tests.core.samples import draw_picture, save_jpeg, save_mask, write_encrypted_zip, write_zip

YAML = """\
giant_panda_1336440745_2:
  coarse_grained_class: giant_panda
  caption: '* is at the back:  far away.'
  class_id: giant_panda_1336440745_2
  scene_id: '1336440745'
  instance_id: '2'
  test_frame: '00085'
  train_frames:
  - '00000'
  - '00005'
dog_13e3070469_1:
  coarse_grained_class: dog
  caption: an * with brown fur.
  class_id: dog_13e3070469_1
  scene_id: 13e3070469
  instance_id: '1'
  test_frame: '00090'
  train_frames:
  - '00005'
  - '00010'
dog_1336440745_1:
  coarse_grained_class: dog
  caption: a second *.
  class_id: dog_1336440745_1
  scene_id: '1336440745'
  instance_id: '1'
  test_frame: '00085'
  train_frames:
  - '00000'
"""

CAPTIONS = {
    "cleaned_captions_ytvos_val.csv": """\
image_name,coarse_grained_class,caption,class_id
eval/images/giant_panda_1336440745_2_00085.jpg,giant_panda,* is at the back:  far away.,giant_panda_1336440745_2
""",
    "cleaned_captions_ytvos_test.csv": """\
image_name,coarse_grained_class,caption,class_id
eval/images/dog_13e3070469_1_00090.jpg,dog,"an * with brown fur, and more.",dog_13e3070469_1
eval/images/dog_1336440745_1_00085.jpg,dog,a second *.,dog_1336440745_1
""",
}

OBJECTS = {  # instance: left, top, right, bottom of its rectangle, the latter two excluded
    ("1336440745", "00000"): {1: (0, 0, 30, 20), 2: (50, 10, 52, 48)},
    ("1336440745", "00005"): {1: (10, 5, 40, 33), 2: (60, 3, 96, 54)},
    ("1336440745", "00085"): {1: (3, 7, 37, 26), 2: (70, 30, 95, 53)},
    ("13e3070469", "00005"): {1: (5, 5, 64, 48)},
    ("13e3070469", "00010"): {1: (20, 11, 41, 36), 3: (0, 0, 3, 3)},
    ("13e3070469", "00090"): {1: (31, 0, 33, 48)},
}
"""Frame 00005 is no few-shot frame of dog_1336440745_1, although the object is in it."""


def mark(seed: int) -> dict[str, object]:
    """Return a frame with one of the properties of real ones."""
    exif = Image.Exif()
    exif[0x0112] = 6
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    profile[24:36] = bytes(12)  # the time of its creation
    marks = [{}, {"exif": exif.tobytes()}, {"icc_profile": bytes(profile)}, {"progressive": True}, {"subsampling": 0}]
    return marks[seed % len(marks)]


def draw_ytvos() -> dict[str, bytes]:
    members = {"train/meta.json": b"{}"}
    for seed, ((scene, frame), objects) in enumerate(OBJECTS.items()):
        width, height = (96, 54) if scene == "1336440745" else (64, 48)
        indices = np.zeros((height, width), np.uint8)
        for instance, (left, top, right, bottom) in objects.items():
            indices[top:bottom, left:right] = instance
        members[f"train/JPEGImages/{scene}/{frame}.jpg"] = save_jpeg(draw_picture(width, height, seed), **mark(seed))
        members[f"train/Annotations/{scene}/{frame}.png"] = save_mask(indices)
    return members


def write_ytvos_annotations(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ytvos_personalization_meta.yaml").write_text(YAML)
    for name, text in CAPTIONS.items():
        (folder / name).write_text(text)
    return folder


def read_tables(benchmark, folder: Path):
    return {table.name: table.schema.validate(table.read(folder), table.name) for table in benchmark.tables}


def build_ytvos(tmp_path: Path, members: dict[str, bytes] | Path, folder: Path) -> dict[str, FolderTree]:
    """Build the tree and both retrieval sets; return them by name or split."""
    tables = read_tables(ytvos.BENCHMARK, folder)
    path = members if isinstance(members, Path) else write_zip(tmp_path / "youtube_vos/train.zip", members)
    plan = ytvos.plan_fsl_seg(tables)
    with open_members(RawArchive(path, identify(path))) as source:
        trees = {"fsl_seg": commit_tree(build_tree(plan, source, tmp_path / plan.folder, max_lost=1.0))}
    for split in ytvos_annotations.SPLITS:
        plan = ytvos.plan_retrieval_set(tables, split)
        with open_tree(trees["fsl_seg"]) as source:
            trees[split] = commit_tree(build_tree(plan, source, tmp_path / plan.folder, max_lost=1.0))
    return trees


PASSWORD = "not the real one"

FEW_SHOT = {
    "validation": "codes_infer/10488:\n000011.jpg\n000012.jpg\n\ncodes_infer/96:\n000013.jpg\n",
    "test": "codes_infer/7:\r\n000021.jpg\r\n000022.jpg  \r\n",
}
FASHION_CAPTIONS = {
    "validation_captions.csv": [("000014", "10488", "a person."), ("000015", "96", 'the person, "posing".')],
    "test_captions.csv": [("000023", "7", "a person."), ("000024", "7", "a person."), ("000023", "7", "again.")],
    "shortened_deepfashion2_captions.csv": [("000014", "10488", "short."), ("000021", "7", "short.")],
    "detailed_deepfashion2_captions.csv": [("000014", "10488", "long."), ("000099", "555", "of no split.")],
}
FASHION_CLASSES = "unique_pair_ids,pair_id_categories\n7,short sleeve top\n96,vest\n10488,long sleeve dress\n"


def draw_deep_fashion() -> dict[str, bytes]:
    modes = ["RGB", "RGB", "L", "CMYK"]
    return {
        f"train/image/{number:06}.jpg": save_jpeg(
            Image.fromarray(draw_picture(40, 60, number)).convert(modes[number % 4]), **mark(number)
        )
        for number in range(10, 26)
    } | {"train/annos/000011.json": b"{}"}


def write_deep_fashion_annotations(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, text in FEW_SHOT.items():
        (folder / f"{split}_fsl_train.txt").write_bytes(text.encode())
    (folder / "train_coarse_grained_names.csv").write_text(FASHION_CLASSES)
    for name, rows in FASHION_CAPTIONS.items():
        lines = ['train/image/{}.jpg,{},"{}"'.format(n, p, c.replace('"', '""')) for n, p, c in rows]
        (folder / name).write_text("\n".join(["image_name,pair_id,caption", *lines]))
    return folder


def build_deep_fashion(
    tmp_path: Path, members: dict[str, bytes] | Path, folder: Path, password: str = PASSWORD
) -> dict[str, FolderTree]:
    """Build both splits from an encrypted archive."""
    tables = read_tables(deep_fashion.BENCHMARK, folder)
    encrypted = tmp_path / "deep_fashion2/train.zip"
    path = members if isinstance(members, Path) else write_encrypted_zip(encrypted, members, PASSWORD)
    trees = {}
    for split in deep_fashion.SPLITS:
        plan = deep_fashion.plan_personalized(tables, split)
        with open_members(RawArchive(path, identify(path)), password) as source:
            trees[split] = commit_tree(build_tree(plan, source, tmp_path / plan.folder, max_lost=1.0))
    return trees


def read_members(path: Path, password: str | None = None) -> dict[str, bytes]:
    """Read an archive with the standard library only."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        return {name: archive.read(name, password.encode() if password else None) for name in names}
