import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pervl_assets.clip.features import Features
from pervl_assets.core.errors import PervlError
from pervl_assets.training.training_data import collect_training_data, split_rows
from pervl_assets_tests.goldens import read_golden
from pervl_assets_tests.training.kit import PASSPORT, list_matches, list_sentences, make_data


def number(count: int, classes: int = 1) -> pl.DataFrame:
    return pl.DataFrame(
        {"class_row": [row for row in range(classes) for _ in range(count)], "place": [*range(count)] * classes},
        schema={"class_row": pl.Int64, "place": pl.Int64},
    )


def test_the_three_cuts_leave_the_rows_that_palavra_trains_on():
    for count, expected in read_golden("split")["n"].items():
        train, test = split_rows(number(int(count)), "palavra")
        assert train["place"].to_list() == expected.get("after_augment", []), count
        assert test.equals(train)


@given(st.integers(0, 60), st.integers(1, 3))
def test_disjoint_splits_share_nothing_and_leave_nothing_out(count, classes):
    rows = number(count, classes)
    train, test = split_rows(rows, "disjoint")
    assert pl.concat([train, test]).sort("class_row", "place").equals(rows)
    assert test["place"].to_list() == [*range(0, count, 5)] * classes


def test_rows_are_the_first_of_each_image_that_has_features_in_text_order():
    sentences = list_sentences({"dog": 20, "rare": 1})
    ids = sentences["image_id"].unique().sort().to_list()
    features = Features(ids[1:], np.ones((len(ids) - 1, PASSPORT.dimension), np.float32), PASSPORT)
    data = collect_training_data(sentences.reverse(), list_matches({}), features, "disjoint")
    assert (data.classes, data.left_out) == (["dog"], ["rare"])
    assert data.train.starts.tolist() == [0, 15]
    used = [features.ids[row] for row in data.train.images]
    assert used == [one for place, one in enumerate(ids[1:20]) if place % 5]
    assert data.train.sentences[0] == "second dog 2"  # the frame is upside down
    assert data.test.starts.tolist() == [0, 4]


def test_classes_without_a_row_to_train_on_are_left_out_and_all_of_them_refused():
    sentences = list_sentences({"dog": 8, "cat": 7})
    ids = sentences["image_id"].unique().sort().to_list()
    features = Features(ids, np.ones((len(ids), PASSPORT.dimension), np.float32), PASSPORT)
    data = collect_training_data(sentences, list_matches({"Cat": 1}), features, "palavra")
    assert (data.classes, data.left_out, data.names) == (["dog"], ["cat"], [])
    with pytest.raises(PervlError, match="None of 1 object classes has images to train on: cat"):
        collect_training_data(sentences.filter(name="cat"), list_matches({}), features, "palavra")


def test_names_replace_every_star_and_become_the_label():
    data = make_data()
    drawn = data.train.draw(5, torch.Generator().manual_seed(0))
    assert drawn.shape == (6, 5)
    assert (drawn >= data.train.starts[:-1, None]).all()
    assert (drawn < data.train.starts[1:, None]).all()
    labels, sentences = data.draw_augmented(drawn, torch.Generator().manual_seed(0))
    assert labels[0] in ("poodle", "husky")
    assert labels[1:] == ["cat", "minibus", "sofa", "tree", "cup"]
    assert [text.split()[1] for text in sentences] == [label for label in labels for _ in range(5)]
    assert set(sentences) <= {*data.list_augmented(100), *data.train.sentences}
    rows = int(data.train.starts[1])
    assert len(data.list_augmented(3 * rows)) == 3 * rows
    assert data.list_augmented(3 * rows - 1) == []


def test_rows_are_drawn_with_replacement_and_evenly():
    data, generator = make_data(), torch.Generator().manual_seed(1)
    drawn = np.concatenate([data.train.draw(5, generator) for _ in range(200)], axis=1)
    for start, end, rows in zip(data.train.starts, data.train.starts[1:], drawn, strict=False):
        counts = np.bincount(rows - start, minlength=end - start)
        assert len(counts) == end - start == 5
        assert counts.min() > 150


def test_the_hash_changes_with_all_that_is_read():
    data = make_data()
    assert data.hash() == make_data().hash()
    assert len({data.hash(), make_data("disjoint").hash(), make_data(images=45).hash()}) == 3
