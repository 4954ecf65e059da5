import csv
import io
import json
import zipfile
from collections import Counter

import numpy as np
import pytest
import yaml
from PIL import Image

from pervl_assets.demo.builders.ytvos import plan_clips, plan_concepts
from pervl_assets.demo.drawing import COLOURS


@pytest.fixture(scope="module")
def meta(drawn):
    return yaml.safe_load((drawn / "annotations/ytvos/ytvos_personalization_meta.yaml").read_text())


@pytest.fixture(scope="module")
def archive(drawn):
    with zipfile.ZipFile(drawn / "youtube_vos/train.zip") as archive:
        yield archive


def read_mask(archive, scene, frame):
    return Image.open(io.BytesIO(archive.read(f"train/Annotations/{scene}/{frame}.png")))


def read_rows(drawn, name):
    with (drawn / "annotations/ytvos" / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_twenty_four_or_more_concepts_per_split_and_several_per_scene(meta):
    splits = Counter(concept.clip.split for concept in plan_concepts(0))
    assert splits["val"] >= 24
    assert splits["test"] >= 24
    assert len(meta) == splits.total()
    assert max(Counter(concept["scene_id"] for concept in meta.values()).values()) >= 3


def test_ids_and_frames_are_text_though_some_look_like_numbers(meta):
    for name, concept in meta.items():
        assert name == f"{concept['coarse_grained_class']}_{concept['scene_id']}_{concept['instance_id']}"
        assert name == concept["class_id"]
        values = [concept["scene_id"], concept["instance_id"], concept["test_frame"], *concept["train_frames"]]
        assert all(isinstance(value, str) for value in values)
        assert 4 <= len(concept["train_frames"]) <= 8
        assert max(concept["train_frames"]) < concept["test_frame"]
    assert any(concept["scene_id"].isdigit() for concept in meta.values())
    assert any("_" in concept["coarse_grained_class"] for concept in meta.values())


def test_no_evaluation_frame_is_a_few_shot_frame_of_any_concept(meta):
    """As in the official annotations."""
    few_shot = {(concept["scene_id"], frame) for concept in meta.values() for frame in concept["train_frames"]}
    assert few_shot.isdisjoint((concept["scene_id"], concept["test_frame"]) for concept in meta.values())


def test_every_annotated_instance_is_in_its_masks(meta, archive):
    for concept in meta.values():
        for frame in [*concept["train_frames"], concept["test_frame"]]:
            mask = read_mask(archive, concept["scene_id"], frame)
            frame_size = Image.open(
                io.BytesIO(archive.read(f"train/JPEGImages/{concept['scene_id']}/{frame}.jpg"))
            ).size
            assert mask.mode == "P"
            assert mask.size == frame_size
            rows, columns = np.nonzero(np.asarray(mask) == int(concept["instance_id"]))
            assert rows.max() - rows.min() > 20
            assert columns.max() - columns.min() > 20


def test_masks_carry_the_palette_of_davis(archive):
    palette = read_mask(archive, plan_clips(0)[0].scene_id, "00000").getpalette()
    assert palette[:15] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]


def test_instances_move(archive):
    for clip in plan_clips(0):
        first, last = (
            np.asarray(read_mask(archive, clip.scene_id, frame)) for frame in (clip.frames[0], clip.frames[-1])
        )
        for instance in range(1, len(clip.actors) + 1):
            centres = [np.argwhere(mask == instance).mean(0) for mask in (first, last)]
            assert np.abs(centres[0] - centres[1]).max() > 5


def test_meta_json_names_the_frames_of_every_instance(meta, archive):
    videos = json.loads(archive.read("train/meta.json"))["videos"]
    assert set(videos) == {name.split("/")[2] for name in archive.namelist() if name.endswith(".jpg")}
    for concept in meta.values():
        entry = videos[concept["scene_id"]]["objects"][concept["instance_id"]]
        assert entry["category"] == concept["coarse_grained_class"]
        assert set(concept["train_frames"]) < set(entry["frames"])


def test_the_archive_has_more_frames_than_the_annotations(meta, archive):
    named = {(c["scene_id"], f) for c in meta.values() for f in [*c["train_frames"], c["test_frame"]]}
    frames = {tuple(name[:-4].split("/")[2:]) for name in archive.namelist() if name.endswith(".jpg")}
    assert named < frames


def test_caption_files_agree_with_the_meta(drawn, meta):
    split_rows = [read_rows(drawn, f"cleaned_captions_ytvos_{split}.csv") for split in ("val", "test")]
    rows = split_rows[0] + split_rows[1]
    assert sorted(row["class_id"] for row in rows) == sorted(meta)
    for row in rows:
        concept = meta[row["class_id"]]
        assert row["caption"] == concept["caption"]
        assert row["caption"].count("*") == 1
        assert row["coarse_grained_class"] == concept["coarse_grained_class"]
        assert row["image_name"] == f"eval/images/{row['class_id']}_{concept['test_frame']}.jpg"
    joint = read_rows(drawn, "ytvos_joint_captions.csv")
    assert [row.pop("") for row in joint] == [str(k) for k in range(len(joint))]
    assert joint == rows


def test_captions_are_true_of_the_evaluation_frame(meta, archive):
    found = 0
    for concept in meta.values():
        mask = np.asarray(read_mask(archive, concept["scene_id"], concept["test_frame"]))
        own = int(concept["instance_id"])
        x = {k: np.argwhere(mask == k)[:, 1].mean() for k in np.unique(mask) if k}
        others = [value for k, value in x.items() if k != own]
        caption = concept["caption"]
        if "furthest to the left" in caption:
            assert x[own] < min(others)
        elif "furthest to the right" in caption:
            assert x[own] > max(others)
        elif "to the left of" in caption:
            assert x[own] < max(others)
        elif "to the right of" in caption:
            assert x[own] > min(others)
        elif " between " in caption:
            assert min(others) < x[own] < max(others)
        else:
            continue
        found += 1
    assert found >= 20


def test_a_caption_without_its_concept_fits_several_concepts():
    """Else retrieval by text alone would find the frame, and a learned concept could not be better."""
    concepts = [(c, c.clip.actors[c.instance - 1].start.look.colour) for c in plan_concepts(0)]
    rivals = Counter((c.clip.split, c.class_name, c.clip.place) for c, _ in concepts)
    assert sum(rivals[c.clip.split, c.class_name, c.clip.place] >= 3 for c, _ in concepts) >= 30
    assert len({(c.clip.split, c.class_name, colour) for c, colour in concepts}) == len(concepts)
    assert not any(colour in c.caption for c, _ in concepts for colour in COLOURS)
