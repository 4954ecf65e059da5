"""PerVL-DeepFashion2: faulty annotations, passwords, and images that do not decode."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pervl_assets.benchmarks import deep_fashion
from pervl_assets.benchmarks.benchmark import QUERY_CAPTIONS
from pervl_assets.core.errors import AnnotationError, MissingInputError, PasswordError
from pervl_assets_tests.benchmarks.worlds import (
    build_deep_fashion,
    draw_deep_fashion,
    read_tables,
    write_deep_fashion_annotations,
)

OFFICIAL = Path(__file__).parents[2].parent / "shared" / "data" / "annotations" / "deep_fashion"


@pytest.fixture
def folder(tmp_path):
    return write_deep_fashion_annotations(tmp_path / "annotations")


def test_the_split_is_read_with_any_line_ends(folder):
    assert deep_fashion.read_few_shot_split(folder).rows() == [
        ("validation", "10488", "000011.jpg", "long sleeve dress"),
        ("validation", "10488", "000012.jpg", "long sleeve dress"),
        ("validation", "96", "000013.jpg", "vest"),
        ("test", "7", "000021.jpg", "short sleeve top"),
        ("test", "7", "000022.jpg", "short sleeve top"),
    ]


def test_an_item_without_a_class_is_kept_and_a_second_class_is_refused(folder):
    file = folder / "train_coarse_grained_names.csv"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if not line.startswith("96,")))
    split = deep_fashion.read_few_shot_split(folder)
    assert split.filter(pair_id="96")["class_name"].to_list() == [None]
    assert "96" not in deep_fashion.name_classes({"few_shot_split": split})
    file.write_text("".join([*lines, "7,vest\n"]))
    with pytest.raises(AnnotationError, match="line 5: a second class of 7"):
        deep_fashion.read_few_shot_split(folder)


def test_the_description_of_an_item(folder):
    tables = read_tables(deep_fashion.BENCHMARK, folder)
    assert deep_fashion.describe_concept(tables, "10488") == [
        ("class", "long sleeve dress"),
        ("000014.jpg", "a person."),
        ("shortened", "short."),
    ]
    assert [text for _, text in deep_fashion.describe_concept(tables, "7")] == [
        "short sleeve top",
        "a person.",
        "a person.",
        "again.",
    ]


def test_a_byte_order_mark_and_a_missing_last_newline_change_nothing(folder):
    expected = deep_fashion.read_few_shot_split(folder)
    file = folder / "validation_fsl_train.txt"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().rstrip())
    assert deep_fashion.read_few_shot_split(folder).equals(expected)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("codes_infer/10488\n000011.jpg\n", "line 1: 'codes_infer/10488' is neither"),
        ("000011.jpg\ncodes_infer/7:\n000011.jpg\n", "line 1: 000011.jpg is before any"),
        ("codes_infer/7:\n 000011.jpg\n", "line 2: ' 000011.jpg' is neither"),
        ("codes_infer/7:\n000011.JPG\n", "line 2: '000011.JPG' is neither"),
        ("codes_infer/7:\n../../x.jpg\n", "line 2: '../../x.jpg' is neither"),
        ("codes_infer/../7:\n000011.jpg\n", "line 1: 'codes_infer/../7:' is neither"),
        ("codes_infer/7:\n\ncodes_infer/8:\n000011.jpg\n", "line 1: codes_infer/7 has no images"),
        ("codes_infer/7:\n000011.jpg\n\ncodes_infer/7:\n000012.jpg\n", "line 4: codes_infer/7 is already in line 1"),
    ],
)
def test_faulty_lines_are_listed(folder, text, fault):
    (folder / "validation_fsl_train.txt").write_text(text)
    with pytest.raises(AnnotationError, match=re.escape(fault)):
        deep_fashion.read_few_shot_split(folder)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="codes_infr/:0123. jpg\n\r\t|", max_size=80) | st.text(max_size=40))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    folder = write_deep_fashion_annotations(tmp_path_factory.mktemp("annotations"))
    (folder / "validation_fsl_train.txt").write_text(text, newline="")
    try:
        frame = deep_fashion.read_few_shot_split(folder).filter(split="validation")
    except AnnotationError:
        return
    images = [line.rstrip() for line in text.split("\n") if line.rstrip().endswith(".jpg")]
    assert frame["image"].to_list() == images


def test_captions_have_set_and_split(folder):
    captions = deep_fashion.read_captions(folder)
    assert captions.select("caption_set", "pair_id", "image", "split").rows() == [
        ("validation", "10488", "000014.jpg", "validation"),
        ("validation", "96", "000015.jpg", "validation"),
        ("test", "7", "000023.jpg", "test"),
        ("test", "7", "000024.jpg", "test"),
        ("test", "7", "000023.jpg", "test"),
        ("shortened", "10488", "000014.jpg", "validation"),
        ("shortened", "7", "000021.jpg", "test"),
        ("detailed", "10488", "000014.jpg", "validation"),
        ("detailed", "555", "000099.jpg", None),
    ]
    assert captions["caption"][1] == 'the person, "posing".'


def test_each_caption_of_a_split_is_a_query_short_and_detailed(folder):
    tables = read_tables(deep_fashion.BENCHMARK, folder)
    queries = QUERY_CAPTIONS.validate(deep_fashion.list_captions(tables, "validation"), "captions")
    assert queries.rows() == [
        ("short", 0, "10488", "short.", "000014.jpg"),
        ("short", 1, "96", None, "000015.jpg"),
        ("detailed", 0, "10488", "a person.", "000014.jpg"),
        ("detailed", 1, "96", 'the person, "posing".', "000015.jpg"),
    ]
    repeated = deep_fashion.list_captions(tables, "test").filter(caption_set="detailed")
    assert repeated.select("query", "image").rows() == [(0, "000023.jpg"), (1, "000024.jpg"), (2, "000023.jpg")]
    assert deep_fashion.list_few_shot(tables, "test") == ["codes_infer/7/000021.jpg", "codes_infer/7/000022.jpg"]


@pytest.mark.parametrize(
    "row", ["train/image/../x.jpg,7,a", "image/000023.jpg,7,a", "train/image/000023.jpg,7/8,a", "train/image/1.jpg,,a"]
)
def test_hostile_captions_are_refused(folder, row):
    (folder / "test_captions.csv").write_text(f"image_name,pair_id,caption\ntrain/image/000023.jpg,7,a\n{row}\n")
    with pytest.raises(AnnotationError, match="line 3"):
        deep_fashion.read_captions(folder)


def test_missing_annotations_are_named(folder):
    (folder / "test_captions.csv").unlink()
    with pytest.raises(MissingInputError, match=r"test_captions\.csv"):
        deep_fashion.read_captions(folder)


def test_facts_of_the_official_annotations():
    if not OFFICIAL.is_dir():
        pytest.skip(f"the official annotations are not at {OFFICIAL}")
    tables = read_tables(deep_fashion.BENCHMARK, OFFICIAL)
    for table in deep_fashion.BENCHMARK.tables:
        assert table.count(tables[table.name]) == table.facts
    for tree in deep_fashion.BENCHMARK.trees:
        members = set()
        for split, facts in tree.facts.items():
            plan = tree.plan(tables, split)
            roles = [output.role for job in plan.tasks for output in job.outputs]
            assert {role: roles.count(role) for role in facts} == dict(facts)
            members |= {name for job in plan.tasks for name in job.members}
        assert len(members) == 1764


def test_a_wrong_password_writes_nothing(tmp_path, folder):
    with pytest.raises(PasswordError, match="does not open"):
        build_deep_fashion(tmp_path, draw_deep_fashion(), folder, "wrong")
    assert sorted(path.name for path in (tmp_path / "deep_fashion2").iterdir()) == ["train.zip"]


def test_images_that_do_not_decode_are_quarantined_and_missing_ones_counted(tmp_path, folder):
    members = draw_deep_fashion()
    members["train/image/000011.jpg"] = members["train/image/000011.jpg"][:-200]
    del members["train/image/000013.jpg"], members["train/image/000014.jpg"]
    tree = build_deep_fashion(tmp_path, members, folder)["validation"]
    settled = dict(tree.ledger.select("path", "status").iter_rows())
    assert settled == {
        "codes_infer/10488/000011.jpg": "quarantined",
        "codes_infer/10488/000012.jpg": "written",
        "codes_infer/96/000013.jpg": "missing",
        "eval/test/000014.jpg": "missing",
        "eval/test/000015.jpg": "written",
    }
    assert not (tree.root / "codes_infer/96").exists()
    assert tree.ledger.filter(status="written").select("width", "height").rows() == [(40, 60), (40, 60)]
