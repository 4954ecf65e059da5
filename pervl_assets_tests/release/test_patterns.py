"""Patterns of files, and what paths tell: every expression holds for the paths and for what it finds in them."""

import fnmatch
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pervl_assets.release.parts import Tree, TreePart
from pervl_assets.release.patterns import find_concept, find_pattern, find_split, group_files, list_single_files
from pervl_assets_tests.release.samples import make_rows

NAMES = st.text("abcXYZ019_-[]", min_size=1, max_size=8)


def make_part(*trees: tuple[str | None, str, list[tuple[str, str, str]]]) -> TreePart:
    made = tuple(Tree(split, root, f"assets/{root}.parquet", make_rows(files)) for split, root, files in trees)
    return TreePart("pets/tree", "", (), made, ())


def test_files_are_grouped_by_their_rules():
    files = [("a/rex/1.jpg", "rex", "crop"), ("a/tom/2.jpg", "tom", "crop"), ("b/1.png", "rex", "mask")]
    crops, masks = group_files(make_part((None, "root", [*files, ("all.yaml", "", "summary")])))
    assert (crops.name, crops.patterns, crops.suffix) == ("pets/tree/crop", ("root/a/*/*.jpg",), ".jpg")
    assert crops.files == (("root/a/rex/1.jpg", "rex"), ("root/a/tom/2.jpg", "tom"))
    assert (masks.patterns, masks.bytes) == (("root/b/*.png",), 3)


def test_rules_whose_files_share_their_folders_are_one_group():
    (group,) = group_files(make_part((None, "root", [("i/1.jpg", "rex", "crop"), ("i/2.jpg", "rex", "frame")])))
    assert (group.name, group.rules) == ("pets/tree/crop_and_frame", ("crop", "frame"))
    assert [place for place, _ in group.files] == ["root/i/1.jpg", "root/i/2.jpg"]


def test_a_group_holds_the_files_of_all_splits():
    (group,) = group_files(
        make_part(("validation", "v", [("e/1.jpg", "a", "copy")]), ("test", "t", [("e/2.jpg", "b", "copy")]))
    )
    assert group.patterns == ("t/e/*.jpg", "v/e/*.jpg")


def test_types_and_depths_of_one_rule_are_told_apart():
    files = [("x/1.jpg", "a", "r"), ("x/y/2.jpg", "a", "r"), ("x/1.png", "a", "r")]
    pictures, masks = group_files(make_part((None, "root", files)))
    assert pictures.patterns == ("root/x/*.jpg", "root/x/y/*.jpg")
    assert (pictures.name, masks.name) == ("pets/tree/r", "pets/tree/r.png")


def test_files_about_all_concepts_stand_alone():
    part = make_part((None, "root", [("all.yaml", "", "summary"), ("x/1.jpg", "a", "r")]))
    assert [file.place for file in list_single_files(part)] == ["root/all.yaml"]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=6, unique=True))
def test_a_pattern_names_its_files(folders):
    files = [(f"top/{folder}/{name}.jpg", folder) for folder, name in folders]
    pattern = find_pattern(files)
    assert pattern == "top/*/*.jpg"
    assert all(fnmatch.fnmatchcase(path, pattern) for path, _ in files)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(NAMES, st.lists(NAMES, min_size=2, max_size=5, unique=True))
def test_folders_with_special_letters_are_taken_as_they_are(folder, names):
    files = [(f"{folder}/{name}.jpg", "elsewhere") for name in names]
    assert all(fnmatch.fnmatchcase(path, find_pattern(files)) for path, _ in files)
    assert not fnmatch.fnmatchcase("another folder/x.jpg", find_pattern(files))


@pytest.mark.parametrize("path", ["train/{}/{}_00005.jpg", "eval/{}.jpg", "eval/{}_00005.jpg", "a/b/{}/x/1.jpg"])
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(names=st.lists(st.text("abcX019_-", min_size=1, max_size=8), min_size=1, max_size=5, unique=True))
def test_paths_tell_their_concept(path, names):
    files = [(f"pets/root/{path.format(name, name)}", name) for name in names]
    told = find_concept(files, ["pets/root"])
    assert told is not None
    for place, name in files:
        for text in (place, name, f"/data/anywhere/{place}"):
            assert re.match(told, text)[1] == name


def test_paths_that_tell_no_concept_are_known():
    assert find_concept([("root/eval/1.jpg", "rex"), ("root/eval/2.jpg", "rex")], ["root"]) is None
    assert find_concept([], ["root"]) is None


@pytest.mark.parametrize("root", ["sets/{}", "personalized_{}", "test/{}/x", "a {} (b)/c"])
def test_roots_tell_their_split(root):
    roots = [(split, root.format(split)) for split in ("validation", "test")]
    patterns = [f"{place}/eval/*/*.jpg" for _, place in roots]
    told = find_split(roots, patterns)
    for split, place in roots:
        assert re.match(told, f"{place}/eval/c/1.jpg")[1] == split
        assert re.match(told, split)[1] == split


@pytest.mark.parametrize(
    "roots",
    [[(None, "fsl_seg")], [("validation", "one"), ("test", "two")], [("validation", "validation"), ("test", "t")]],
)
def test_roots_that_tell_no_split_are_known(roots):
    assert find_split(roots, [f"{place}/*.jpg" for _, place in roots]) is None
