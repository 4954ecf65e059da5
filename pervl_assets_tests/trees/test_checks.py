"""Checks that hold for trees of any benchmark: they fail on what they are for, and say what it is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pervl_assets.core.checks import compare_counts
from pervl_assets.trees.checks import BOXES_INSIDE, check_boxes, check_roles_apart
from pervl_assets.trees.ledger import FolderTree, build_frame
from pervl_assets.trees.plans import Output, fill_row, record_bytes, start_row

ROLES = check_roles_apart("shot", "frame")


def make_tree(tmp_path, *rows):
    """Return a tree of (role, concept, members, box); its frames have 100 x 50 pixels."""
    made = [
        {
            **fill_row(start_row(1, Output(f"{number}.jpg", concept, role), members, [1]), record_bytes(b"x")),
            "box": box,
            "width": 100,
            "height": 50,
        }
        for number, (role, concept, members, box) in enumerate(rows)
    ]
    return FolderTree(tmp_path, build_frame(made))


def test_counts_that_differ_are_named_with_both_numbers():
    found = compare_counts({"concepts": 243, "scenes": 270, "more": 5}, {"concepts": 246, "scenes": 270, "crops": 9})
    assert not found.passed
    assert found.text == "concepts: 243, officially 246; crops: 0, officially 9"
    assert sorted(found.rows.rows()) == [
        ("concepts", 243, 246),
        ("crops", 0, 9),
        ("more", 5, None),
        ("scenes", 270, 270),
    ]


def test_counts_that_agree_or_are_unknown_are_reported():
    found = compare_counts({"concepts": 1246, "scenes": 3}, {"concepts": 1246})
    assert (found.passed, found.text) == (True, "concepts: 1,246, scenes: 3")


def test_an_evaluation_image_among_few_shot_images_is_found(tmp_path):
    tree = make_tree(
        tmp_path,
        ("shot", "cat", ("a", "a.png"), None),
        ("shot", "dog", ("b", "b.png"), None),
        ("frame", "cat", ("a", "a.png"), None),
        ("frame", "dog", ("a", "a.png"), None),
        ("frame", "cow", ("c", "c.png"), None),
        ("mask", "cow", ("b", "b.png"), None),
    )
    found = ROLES.evaluate(tree)
    assert not found.passed
    assert found.numbers == {"evaluation images": 3, "also few-shot images": 2, "of the same concept": 1}
    assert "2 of 3 evaluation images" in found.text
    assert "cat, dog" in found.text


def test_roles_apart(tmp_path):
    found = ROLES.evaluate(make_tree(tmp_path, ("shot", "cat", ("a",), None), ("frame", "cat", ("b",), None)))
    assert (found.passed, found.numbers["evaluation images"]) == (True, 1)


@pytest.mark.parametrize(
    "box", [[-1, 0, 5, 5], [0, -1, 5, 5], [0, 0, 100, 5], [0, 0, 5, 50], [6, 0, 5, 5], [0, 6, 5, 5]]
)
def test_a_box_that_leaves_its_image_is_an_error(tmp_path, box):
    found = check_boxes(make_tree(tmp_path, ("mask", "cat", ("a",), [0, 0, 99, 49]), ("mask", "dog", ("b",), box)))
    assert not found.passed
    assert found.text == "1 of 2 boxes not inside their image: 1.jpg"
    assert BOXES_INSIDE.severity == "error"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 49), st.integers(0, 49))
def test_any_box_of_an_image_is_inside(tmp_path_factory, x0, x1, y0, y1):
    box = [min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)]
    assert check_boxes(make_tree(tmp_path_factory.getbasetemp(), ("mask", "cat", ("a",), box))).passed
