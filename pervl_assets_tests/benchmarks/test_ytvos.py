"""PerVL-YTVOS: faulty annotations, and raw data at which upstream fails."""

import io
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pervl_assets.benchmarks import ytvos
from pervl_assets.benchmarks import ytvos_annotations as annotations
from pervl_assets.benchmarks.benchmark import QUERY_CAPTIONS
from pervl_assets.core.errors import AnnotationError, MissingInputError
from pervl_assets.testing.hostile import cut_jpeg, damage_member, turn_cmyk, turn_grey
from pervl_assets_tests.benchmarks.worlds import (
    YAML,
    build_ytvos,
    draw_ytvos,
    read_tables,
    write_ytvos_annotations,
)
from pervl_assets_tests.core.samples import draw_picture, save_jpeg, save_mask, write_zip

OFFICIAL = Path(__file__).parents[2].parent / "shared" / "data" / "annotations" / "ytvos"
META = "ytvos_personalization_meta.yaml"


@pytest.fixture
def folder(tmp_path):
    return write_ytvos_annotations(tmp_path / "annotations")


# ---- annotations


def test_concepts_keep_their_texts(folder):
    concepts = annotations.read_concepts(folder)
    assert concepts["concept"].to_list() == ["dog_1336440745_1", "dog_13e3070469_1", "giant_panda_1336440745_2"]
    panda = concepts.row(2, named=True)
    assert panda == {
        "concept": "giant_panda_1336440745_2",
        "class_name": "giant_panda",
        "scene": "1336440745",
        "instance": 2,
        "split": "validation",
        "caption": "* is at the back:  far away.",
        "evaluation_frame": "00085",
        "few_shot_frames": ["00000", "00005"],
    }


def test_ids_without_quotes_stay_text(folder):
    expected = annotations.read_concepts(folder)
    lines = [re.sub(r"'([0-9e]+)'", r"\1", line) for line in YAML.splitlines(keepends=True)]
    (folder / META).write_text("".join(lines))
    assert "scene_id: 1336440745" in (folder / META).read_text()
    assert annotations.read_concepts(folder).equals(expected)


def test_captions_take_the_concept_from_the_file_name(folder):
    captions = annotations.read_captions(folder)
    assert captions.select("split", "concept").rows() == [
        ("validation", "giant_panda_1336440745_2"),
        ("test", "dog_13e3070469_1"),
        ("test", "dog_1336440745_1"),
    ]
    assert captions["caption"][1] == "an * with brown fur, and more."


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("scene_id: 13e3070469", "scene_id: ../../etc", "line 11: scene_id '../../etc'"),
        ("test_frame: '00090'", "test_frame: a/b", "line 11: frame 'a/b'"),
        ("- '00010'", "- ''", "line 11: frame ''"),
        ("- '00010'", "- '00005'", "line 11: dog_13e3070469_1: listed twice"),
        ("instance_id: '1'", "instance_id: '0'", "line 11: instance_id '0'"),
        ("instance_id: '1'", "instance_id: '300'", "line 11: dog_13e3070469_300"),
        ("  test_frame: '00090'\n", "", "line 11: no test_frame"),
        ("coarse_grained_class: dog", "coarse_grained_class: [dog]", "line 11: no coarse_grained_class"),
        ("dog_13e3070469_1:\n  coarse", "dog_13e3070469_1: none\nx:\n  coarse", "line 11: the concept has no fields"),
        ("scene_id: 13e3070469", "scene_id: '1336440745'", "line 21: dog_1336440745_1: listed twice"),
        ("train_frames:\n  - '00005'\n  - '00010'", "train_frames: '00005'", "line 11: train_frames is not a list"),
    ],
)
def test_faulty_concepts_are_listed_with_their_line(folder, old, new, fault):
    head, tail = YAML.split("dog_13e3070469_1:", 1)
    tail = "dog_13e3070469_1:" + tail
    assert old in tail
    (folder / META).write_text(head + tail.replace(old, new, 1))
    with pytest.raises(AnnotationError, match=re.escape(fault)):
        annotations.read_concepts(folder)


@pytest.mark.parametrize("text", ["a: [", "- a\n- b\n", "", "{}", "!!python/object/apply:os.system ['true']"])
def test_annotations_that_are_no_mapping_are_refused(folder, text):
    (folder / META).write_text(text)
    with pytest.raises(AnnotationError):
        annotations.read_concepts(folder)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(tmp_path_factory, data):
    folder = write_ytvos_annotations(tmp_path_factory.mktemp("annotations"))
    for name in (META, "cleaned_captions_ytvos_val.csv"):
        (folder / name).write_bytes(data)
        with pytest.raises(AnnotationError):
            annotations.read_concepts(folder)
        write_ytvos_annotations(folder)


@pytest.mark.parametrize("image_name", ["eval/images/../../x_1.jpg", "dog_1_00085.jpg", "eval/images/dog.jpg", ""])
def test_hostile_image_names_are_refused(folder, image_name):
    file = folder / "cleaned_captions_ytvos_test.csv"
    file.write_text(file.read_text().replace("eval/images/dog_1336440745_1_00085.jpg", image_name))
    with pytest.raises(AnnotationError, match="line 3: image_name"):
        annotations.read_captions(folder)


def test_a_second_caption_of_a_concept_is_refused(folder):
    file = folder / "cleaned_captions_ytvos_test.csv"
    file.write_text(file.read_text() + file.read_text().splitlines()[-1] + "\n")
    with pytest.raises(AnnotationError, match="line 4: a second caption of dog_1336440745_1"):
        annotations.read_captions(folder)


def test_a_caption_of_an_unknown_concept_is_refused(folder):
    file = folder / "cleaned_captions_ytvos_test.csv"
    file.write_text(file.read_text().replace("dog_1336440745_1_00085", "dog_1336440745_9_00085"))
    with pytest.raises(AnnotationError, match="dog_1336440745_9"):
        ytvos.plan_retrieval_set(read_tables(ytvos.BENCHMARK, folder), "test")


def test_a_concept_without_caption_is_in_no_split(folder):
    file = folder / "cleaned_captions_ytvos_test.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    concepts = annotations.read_concepts(folder)
    assert concepts.filter(pl.col("split").is_null())["concept"].to_list() == ["dog_1336440745_1"]


def test_missing_annotations_are_named(folder):
    (folder / META).unlink()
    with pytest.raises(MissingInputError, match=META):
        annotations.read_concepts(folder)


def test_facts_of_the_official_annotations():
    if not OFFICIAL.is_dir():
        pytest.skip(f"the official annotations are not at {OFFICIAL}")
    tables = read_tables(ytvos.BENCHMARK, OFFICIAL)
    for table in ytvos.BENCHMARK.tables:
        assert table.count(tables[table.name]) == table.facts
    scenes = annotations.SCENES_APART.evaluate(tables["concepts"])
    assert not scenes.passed
    for scene in ("77610860e0", "c55784c766", "ff15a5eff6"):
        assert scene in scenes.text
        assert scene in annotations.SCENES_APART.description
    disjoint = annotations.read_disjoint_concepts(OFFICIAL)
    assert annotations.SCENES_APART.evaluate(disjoint).passed
    left_out = tables["concepts"].filter(disjoint["split"].is_null())["concept"].to_list()
    assert left_out == ["cow_77610860e0_3", "person_c55784c766_1", "person_ff15a5eff6_1"]
    captions = annotations.read_disjoint_captions(OFFICIAL)
    assert tables["captions"].height - captions.height == 3
    queries = annotations.list_captions({"captions": captions}, "validation")
    assert QUERY_CAPTIONS.validate(queries, "captions")["query"].to_list() == list(range(243))
    assert queries["image"][0] == f"{queries['concept'][0]}.jpg"
    assert not set(queries["concept"]) & set(left_out)
    plan = ytvos.plan_fsl_seg(tables)
    assert len(plan.tasks) == 4129
    for tree in ytvos.BENCHMARK.trees:
        for split, facts in tree.facts.items():
            roles = [output.role for job in tree.plan(tables, split).tasks for output in job.outputs]
            assert {role: roles.count(role) for role in facts} == dict(facts)


def test_scenes_in_both_splits_are_named_and_can_be_left_out_of_validation(folder):
    """The panda of validation and the second dog of test are in one video."""
    found = annotations.SCENES_APART.evaluate(annotations.read_concepts(folder))
    assert not found.passed
    assert "1 of 2 scenes in both splits: 1336440745" in found.text
    assert "giant_panda_1336440745_2 (validation), dog_1336440745_1 (test)" in found.text
    assert (found.numbers["validation concepts of these"], found.numbers["test concepts of these"]) == (1, 1)

    concepts, captions = annotations.read_disjoint_concepts(folder), annotations.read_disjoint_captions(folder)
    assert concepts.select("concept", "split").rows() == [
        ("dog_1336440745_1", "test"),
        ("dog_13e3070469_1", "test"),
        ("giant_panda_1336440745_2", None),
    ]
    assert concepts.drop("split").equals(annotations.read_concepts(folder).drop("split"))
    assert captions.equals(annotations.read_captions(folder).filter(split="test"))
    again = annotations.SCENES_APART.evaluate(concepts)
    assert (again.passed, again.numbers["concepts in no split"]) == (True, 1)
    tables = {"concepts": concepts, "captions": captions}
    assert ytvos.plan_retrieval_set(tables, "validation").tasks == ()
    official = read_tables(ytvos.BENCHMARK, folder)
    assert ytvos.plan_retrieval_set(tables, "test") == ytvos.plan_retrieval_set(official, "test")
    assert ytvos.plan_fsl_seg(tables) == ytvos.plan_fsl_seg(official)


def test_scenes_apart_change_nothing(folder):
    file = folder / "cleaned_captions_ytvos_test.csv"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))  # without the second dog
    assert annotations.read_disjoint_concepts(folder).equals(annotations.read_concepts(folder))
    assert annotations.read_disjoint_captions(folder).equals(annotations.read_captions(folder))


def test_counts_and_descriptions_of_concepts(folder):
    tables = read_tables(ytvos.BENCHMARK, folder)
    counts = annotations.count_concepts(tables["concepts"])
    assert {name: counts[name] for name in ("validation concepts", "test concepts", "classes", "scenes")} == {
        "validation concepts": 1,
        "test concepts": 2,
        "classes": 2,
        "scenes": 2,
    }
    assert (counts["few-shot crops"], counts["fewest few-shot crops of a concept"], counts["distinct frames"]) == (
        5,
        1,
        6,
    )
    assert annotations.describe_concept(tables, "giant_panda_1336440745_2") == [
        ("class", "giant panda"),
        ("caption", "* is at the back:  far away."),
        ("split", "validation"),
        ("scene", "1336440745, object 2 in its masks"),
    ]


# ---- raw data


JPEG = "train/JPEGImages/1336440745/{}.jpg"
MASK = "train/Annotations/1336440745/{}.png"


def colour_mask():
    buffer = io.BytesIO()
    Image.fromarray(draw_picture(96, 54)).save(buffer, "PNG")
    return buffer.getvalue()


def one_pixel(width, height):
    indices = np.zeros((54, 96), np.uint8)
    indices[10 : 10 + height, 20 : 20 + width] = 2
    indices[30:40, 30:40] = 1
    return save_mask(indices)


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        (JPEG, turn_grey(save_jpeg(draw_picture(96, 54))), "the frame has mode L, not RGB"),
        (JPEG, turn_cmyk(save_jpeg(draw_picture(96, 54))), "the frame has mode CMYK, not RGB"),
        (JPEG, cut_jpeg(save_jpeg(draw_picture(96, 54))), "the frame cannot be decoded"),
        (JPEG, b"\xff\xd8 not a picture", "the frame cannot be decoded"),
        (JPEG, save_jpeg(draw_picture(54, 96)), "the mask has 96 x 54 pixels, the frame 54 x 96"),
        (MASK, save_mask(np.zeros((10, 10))), "the mask has 10 x 10 pixels, the frame 96 x 54"),
        (MASK, colour_mask(), "the mask has mode RGB, not P or L"),
        (MASK, b"\x89PNG\r\n\x1a\n", "the mask cannot be decoded"),
    ],
)
@pytest.mark.parametrize("frame", ["00000", "00085"])
def test_bad_frames_and_masks_are_quarantined_and_the_rest_is_built(tmp_path, folder, name, data, reason, frame):
    trees = build_ytvos(tmp_path, {**draw_ytvos(), name.format(frame): data}, folder)
    tree = trees["fsl_seg"]
    bad = tree.ledger.filter(status="quarantined")
    # Both objects of the scene are in both frames: a crop each in the first, four evaluation files each in the other.
    assert bad.height == {"00000": 2, "00085": 8}[frame]
    assert all(reason in text for text in bad["reason"])
    assert all(frame in path for path in bad["path"])
    assert tree.written + tree.quarantined == 5 + 3 * 4 + 1
    assert all(not (tree.root / path).exists() for path in bad["path"])
    sources = [text for split in annotations.SPLITS for text in trees[split].ledger["reason"] if text]
    assert len(sources) == 2
    assert all(f"source quarantined: {reason}" in text for text in sources)


@pytest.mark.parametrize(("width", "height"), [(1, 9), (9, 1), (1, 1)])
def test_a_mask_of_one_pixel_has_no_crop(tmp_path, folder, width, height):
    thin = one_pixel(width, height)
    members = {**draw_ytvos(), MASK.format("00000"): thin, MASK.format("00085"): thin}
    ledger = build_ytvos(tmp_path, members, folder)["fsl_seg"].ledger
    bad = ledger.filter(status="quarantined")
    assert bad["path"].to_list() == [
        "eval/retrieval/giant_panda_1336440745_2_00085.jpg",
        "train/giant_panda_1336440745_2/giant_panda_1336440745_2_00000.jpg",
    ]
    box = [20, 10, 19 + width, 9 + height]
    assert all(text.endswith(f"the crop is empty: box {box}") for text in bad["reason"])
    kept = ledger.filter(status="written", concept="giant_panda_1336440745_2", rule="evaluation_mask")
    assert kept["box"].to_list() == [box]


def test_an_absent_instance_is_quarantined_and_its_neighbour_is_not(tmp_path, folder):
    indices = np.zeros((54, 96), np.uint8)
    indices[30:40, 30:40] = 1
    trees = build_ytvos(tmp_path, {**draw_ytvos(), MASK.format("00085"): save_mask(indices)}, folder)
    bad = trees["fsl_seg"].ledger.filter(status="quarantined")
    assert bad["concept"].unique().to_list() == ["giant_panda_1336440745_2"]
    assert bad["reason"].unique().to_list() == ["the mask does not contain this instance"]
    assert bad.height == 4
    labels = (trees["fsl_seg"].root / "eval/gt_box_labels.yaml").read_text()
    assert "giant_panda" not in labels
    assert "dog_1336440745_1" in labels


def test_all_missing_members_are_reported_and_the_rest_is_built(tmp_path, folder):
    gone = [JPEG.format("00000"), MASK.format("00085")]
    members = {name: data for name, data in draw_ytvos().items() if name not in gone}
    trees = build_ytvos(tmp_path, members, folder)
    missing = trees["fsl_seg"].ledger.filter(status="missing")
    assert missing.height == 2 + 8
    assert set(missing["reason"]) == {f"not in train.zip: {name}" for name in gone}
    assert trees["validation"].missing == 2
    assert trees["fsl_seg"].written == 5 + 3 * 4 + 1 - 10


def test_a_wrong_crc_is_quarantined(tmp_path, folder):
    path = damage_member(write_zip(tmp_path / "train.zip", draw_ytvos()), JPEG.format("00005"))
    bad = build_ytvos(tmp_path, path, folder)["fsl_seg"].ledger.filter(status="quarantined")
    assert bad["path"].to_list() == ["train/giant_panda_1336440745_2/giant_panda_1336440745_2_00005.jpg"]
    assert bad["reason"].to_list() == [f"{JPEG.format('00005')}: its CRC does not match: the bytes are damaged"]


def test_a_frame_in_both_roles_is_an_evaluation_frame(tmp_path, folder):
    file = folder / META
    file.write_text(file.read_text().replace("  - '00000'\n  - '00005'\n", "  - '00000'\n  - '00085'\n", 1))
    ledger = build_ytvos(tmp_path, draw_ytvos(), folder)["fsl_seg"].ledger
    crops = ledger.filter(concept="giant_panda_1336440745_2", rule="few_shot_crop")
    assert crops["path"].to_list() == ["train/giant_panda_1336440745_2/giant_panda_1336440745_2_00000.jpg"]
