"""Checks of tables and features, on values small enough to count by hand."""

import numpy as np
import polars as pl

from pervl_assets.clip.features import MISSING, REJECTED_IMAGES, Features
from pervl_assets.clip.nearest import find_nearest_classes
from pervl_assets.inversion.checks import (
    COCO_IMAGES,
    TRIPLET_CHECKS,
    check_class_number,
    check_class_sums,
    check_duplicates,
    check_empty_objects,
    check_ids,
    check_names,
    check_repeated_names,
    check_ties,
    check_triplet_counts,
    tabulate_matches,
)
from pervl_assets.inversion.coco_classes import TRIPLETS, collect_object_sentences, count_object_classes
from pervl_assets.inversion.open_images import OPENIMAGES_MATCHES
from pervl_assets_tests.inversion.kit import make_passport


def make_triplets(*rows):
    """Return triplets from image id, subject and object."""
    lines = [(n, image, one, "near", other, f"{one} near {other}") for n, (image, one, other) in enumerate(rows, 1)]
    return pl.DataFrame(lines, schema=TRIPLETS.to_polars(), orient="row")


def make_features(ids, vectors=None, rejected=()):
    vectors = np.ones((len(ids), 8), np.float32) if vectors is None else np.asarray(vectors, np.float32)
    passport = make_passport(dimension=vectors.shape[1])
    rows = [(one, "member", MISSING, "gone", None) for one in rejected]
    frame = pl.DataFrame(rows, schema=REJECTED_IMAGES.to_polars(), orient="row")
    return Features(list(ids), vectors, passport, [0] * len(ids), frame)


def test_triplets_are_counted():
    found = check_triplet_counts(make_triplets(("1 ", "man", "dog"), ("1 ", "man", "cat"), ("2 ", "man", "dog")))
    assert found.passed
    assert found.numbers == {"triplets": 3, "images": 2, "sentences": 2, "subjects": 1, "objects": 2}


def test_more_images_than_in_coco_fail():
    rows = COCO_IMAGES + 1
    frame = pl.DataFrame({"image_id": [f"{n} " for n in range(rows)]}).with_columns(
        line=pl.lit(1), subject=pl.lit("a"), relation=pl.lit("b"), object=pl.lit("c"), sentence=pl.lit("d")
    )
    found = check_triplet_counts(frame)
    assert not found.passed
    assert "COCO 2014 train has 82,783 images" in found.text


def test_a_few_duplicates_pass_and_many_do_not():
    once = [(f"{number} ", "man", "dog") for number in range(9)]
    few = check_duplicates(make_triplets(*once, once[3], once[3]))
    assert few.passed
    assert few.numbers == {"triplets": 11, "duplicates": 2, "repeated": 1}
    assert few.text == "2 of 11 triplets (18.18%) equal to an earlier one. All are kept and counted"
    assert few.rows.rows() == [(3, 4, "3 ", "man", "near", "dog")]
    twice = check_duplicates(make_triplets(*once, *once))
    assert not twice.passed
    assert "contain everything twice" in twice.text
    assert check_duplicates(make_triplets()).numbers == {"triplets": 0, "duplicates": 0, "repeated": 0}
    assert [check.name for check in TRIPLET_CHECKS] == ["no_empty_objects", "few_duplicates", "counts"]


def test_empty_subjects_and_objects_are_listed():
    found = check_empty_objects(make_triplets(("1 ", "", "dog"), ("2 ", "man", "cat"), ("3 ", "man", "")))
    assert not found.passed
    assert found.numbers == {"triplets": 3, "empty": 2}
    assert found.rows["line"].to_list() == [1, 3]


def test_the_number_of_classes_is_compared_with_the_requested_one():
    classes = count_object_classes(make_triplets(("1 ", "man", "dog")), 3)
    assert check_class_number(classes, 2).passed
    assert not (found := check_class_number(classes, 3)).passed
    assert found.text == "2 classes of 3 requested"


def test_sentences_add_up_to_what_was_counted():
    triplets = make_triplets(("1 ", "man", "dog"), ("1 ", "man", "cat"), ("2 ", "dog", "dog"))
    classes = count_object_classes(triplets, 2)
    sentences = collect_object_sentences(triplets, classes)
    assert check_class_sums(classes, sentences).passed
    found = check_class_sums(classes, sentences.filter(pl.col("image_id") != "2 "))
    assert not found.passed
    assert found.text.startswith("1 of 2 classes with another number of sentences")
    assert found.rows["name"].to_list() == ["dog"]
    assert not check_class_sums(classes, sentences.filter(name="man")).passed


def test_repeated_names_are_counted_and_pass():
    found = check_repeated_names(["Apple", "Pear", "Apple", "apple", "Plum", "Pear", "Apple"])
    assert found.passed
    assert found.numbers == {"names": 7, "repeated_names": 2}
    assert found.rows.rows() == [("Apple", 3), ("Pear", 2)]
    assert check_repeated_names([]).numbers == {"names": 0, "repeated_names": 0}


def test_ties_of_equal_vectors_pass_and_others_fail():
    classes = make_features(["man", "Man", "left", "right"], [[0, 0], [0, 0], [9, 5], [11, 5]])
    alike = find_nearest_classes(make_features(["a man", "a left"], [[0, 1], [8, 5]]), classes)
    found = check_ties(alike, classes)
    assert found.passed
    assert found.numbers == {"names": 2, "ties": 1, "ties_of_one_vector": 1}
    between = find_nearest_classes(make_features(["a man", "middle"], [[0, 1], [10, 5]]), classes)
    found = check_ties(between, classes)
    assert not found.passed
    assert found.numbers == {"names": 2, "ties": 2, "ties_of_one_vector": 1}
    assert found.text.endswith("1 equally near to two different vectors: middle")
    only = make_features(["man"], [[0, 0]])
    assert check_ties(find_nearest_classes(make_features(["a man"], [[0, 1]]), only), only).passed


def test_names_and_their_vectors_belong_together():
    assert check_names(make_features(["a", "b"]), ["a", "b"]).passed
    assert "not the names of the table" in check_names(make_features(["a", "b"]), ["b", "a"]).text
    found = check_names(make_features(["a", "b"], [[1.0], [np.inf]]), ["a", "b"])
    assert not found.passed
    assert "1 not finite: b" in found.text


def test_every_id_has_a_vector_or_a_reason_in_its_shard():
    shards = [
        ("0-of-3", make_features(["1 ", "2 "], rejected=["3 "]), ["1 ", "2 ", "3 "]),
        ("1-of-3", make_features([]), []),
    ]
    found = check_ids(iter(shards), 3)
    assert found.passed
    assert found.text == "2 vectors and 1 rejected images in 2 of 3 shards"


def test_wrong_ids_are_listed_with_their_shard():
    vectors = [[1.0], [1.0], [1.0], [np.nan]]
    broken = make_features(["1 ", "1 ", "9 ", "4 "], vectors, rejected=["4 "])
    found = check_ids([("0-of-1", broken, ["1 ", "2 ", "4 "])], 1)
    assert not found.passed
    assert set(found.rows.rows()) == {
        ("0-of-1", "1 ", "occurs twice"),
        ("0-of-1", "4 ", "occurs twice"),
        ("0-of-1", "2 ", "has neither vector nor reason"),
        ("0-of-1", "9 ", "does not belong to the shard"),
        ("0-of-1", "4 ", "has a vector that is not finite"),
    }
    assert "2 occurs twice" in found.text
    assert "materialize them again" in found.text


def make_matches(rows):
    """Return matches from name, class row, class name and margin."""
    frame = [(n, name, row, kind, 1.0, None, None, margin) for n, (name, row, kind, margin) in enumerate(rows)]
    return pl.DataFrame(frame, schema=OPENIMAGES_MATCHES.to_polars(), orient="row")


def test_matches_are_summarized_by_class_with_highest_and_lowest_margin():
    rows = [("Tiger", 1, "cat", 2.0), ("Lion", 1, "cat", 5.0), ("Oak", 0, "tree", 0.12345), ("Lynx", 1, "cat", 0.0)]
    table = tabulate_matches(make_matches(rows))
    assert table.columns == [
        "class",
        "names",
        "highest_margin_name",
        "highest_margin",
        "lowest_margin_name",
        "lowest_margin",
    ]
    assert table.row(0) == ("cat", 3, "Lion", 5.0, "Lynx", 0.0)
    assert table.row(1)[:3] == ("tree", 1, "Oak")
    assert abs(table["highest_margin"][1] - 0.123) < 1e-6
    alone = tabulate_matches(make_matches([("Tiger", 0, "cat", None), ("Oak", 0, "cat", None)]))
    assert alone.rows() == [("cat", 2, "Tiger", None, "Oak", None)]
    assert tabulate_matches(make_matches([])).is_empty()
