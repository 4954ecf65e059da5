"""Drift measured with an encoder of known vectors."""

import dataclasses

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pervl_assets.clip.drift import SAMPLE_SIZE, TOLERANCES, compare_vectors, take_sample
from pervl_assets.clip.features import REJECTED_IMAGES, Features
from pervl_assets.clip.merge import merge_features
from pervl_assets_tests.inversion.kit import make_passport

IDS = sorted(f"{number * 37} " for number in range(1, 31))


def make_features(ids=IDS, **passport) -> Features:
    vectors = np.random.default_rng(0).standard_normal((len(ids), 8)).astype(np.float32)
    return Features(list(ids), vectors, make_passport(**passport), list(range(len(ids))))


def choose_sample(ids, size=SAMPLE_SIZE):
    return take_sample(make_features(list(ids)), size).ids


def move(features, factor=1.0, shift=0.0, **passport) -> Features:
    """Return features whose vectors moved by a known amount."""
    moved = features.vectors * np.float32(factor)
    moved[:, 0] += np.float32(shift) * np.linalg.norm(moved, axis=1)
    return dataclasses.replace(features, vectors=moved, passport=make_passport(**passport))


def test_the_sample_is_the_same_on_every_machine():
    ids = [f"{number} " for number in range(1000)]
    assert choose_sample(ids, 4) == ["56 ", "473 ", "96 ", "714 "]  # as coreutils' sha256sum has them
    assert choose_sample(reversed(ids), 4) == choose_sample(ids, 4)
    assert len(choose_sample(ids)) == SAMPLE_SIZE
    assert choose_sample(["7 ", "7 "], 4) == ["7 "]
    assert choose_sample([], 4) == []


@settings(max_examples=25, deadline=None)
@given(ids=st.sets(st.text(max_size=6), min_size=1, max_size=40), size=st.integers(1, 8), parts=st.integers(1, 4))
def test_the_sample_over_shards_is_that_of_all_ids(ids, size, parts):
    samples = [take_sample(make_features(sorted(ids)[part::parts]), size) for part in range(parts)]
    assert take_sample(merge_features(samples), size).ids == choose_sample(ids, size)
    left = set(choose_sample(ids, size)) - set(choose_sample(sorted(ids)[1:], size))
    assert len(left) <= 1  # one id less changes at most one


def test_a_sample_has_its_vectors_and_crcs():
    features = make_features()
    sample = take_sample(features, 5)
    rows = [IDS.index(one) for one in sample.ids]
    assert len(rows) == 5
    assert np.array_equal(sample.vectors, features.vectors[rows])
    assert sample.crc32s == [features.crc32s[row] for row in rows]


def test_unchanged_vectors_have_not_moved():
    features = make_features()
    found, _ = compare_vectors(features, features)
    assert found.passed
    assert (found.numbers["sample"], found.numbers["probed"], found.rows.height) == (30, 30, 8)
    assert (found.numbers["largest_difference"], found.numbers["largest_relative_difference"]) == (0.0, 0.0)
    assert found.numbers["smallest_cosine"] == pytest.approx(1.0)
    assert found.text.startswith("30 of a sample of 30 vectors encoded again: largest difference 0, relative 0 ")


@pytest.mark.parametrize("precision", list(TOLERANCES))
def test_noise_is_within_the_tolerance_of_its_precision(precision):
    stored, noise = make_features(precision=precision), TOLERANCES[precision] / 2
    found, _ = compare_vectors(stored, move(stored, 1 + noise, precision=precision))
    assert found.passed
    assert found.numbers["largest_relative_difference"] == pytest.approx(noise, rel=0.05)
    assert found.numbers["largest_difference"] == pytest.approx(noise * np.abs(stored.vectors).max(), rel=0.05)
    found, severity = compare_vectors(stored, move(stored, 1 + 4 * noise, precision=precision))
    assert (found.passed, severity) == (False, "warning")  # longer, but not turned
    assert "The passport is the same, so something it does not name has changed" in found.text
    assert "run `pervl verify`" in found.text


def test_the_coarser_of_two_precisions_sets_the_tolerance():
    stored = make_features()
    found, _ = compare_vectors(stored, move(stored, 1.02, precision="bf16"))
    assert found.passed
    assert "(tolerance 0.04)" in found.text
    assert "(bound 0.999)" in found.text


def test_a_changed_checkpoint_is_an_error_with_advice():
    stored = make_features()
    found, severity = compare_vectors(stored, move(stored, 1.0, 2.0, weights_sha256="c" * 64))
    assert (found.passed, severity) == (False, "error")
    assert found.rows["cosine"][0] == found.numbers["smallest_cosine"] < 0.9
    assert f"differs in weights_sha256 {'b' * 64} / {'c' * 64}" in found.text
    assert "Materialize the features again" in found.text


def test_damaged_vectors_are_found():
    stored = make_features()
    vectors = stored.vectors.copy()
    vectors[0], vectors[1, 3] = -vectors[0], np.nan
    found, severity = compare_vectors(dataclasses.replace(stored, vectors=vectors), stored)
    assert (found.passed, severity, found.numbers["smallest_cosine"]) == (False, "error", -1.0)
    assert set(found.rows["id"][:2]) == set(IDS[:2])
    assert np.isfinite(list(found.numbers.values())).all()


def test_images_that_left_the_archive_or_are_others_now_are_not_compared():
    stored = make_features()
    rejected = [(IDS[0], "0.jpg", "missing", "not in the archive", None), (IDS[2], "2.jpg", "quarantined", "CRC", 2)]
    frame = pl.DataFrame(rejected, schema=REJECTED_IMAGES.to_polars(), orient="row")
    again = dataclasses.replace(stored.take([1, *range(3, 30)]), rejected=frame)
    again.crc32s[0] = 99
    found, severity = compare_vectors(stored, again)
    assert (found.passed, severity, found.numbers["probed"]) == (False, "warning", 27)
    assert found.numbers["largest_difference"] == 0.0
    for row, reason in enumerate(("not in the archive", "the archive holds a different image now", "CRC")):
        assert f"{IDS[row]}: {reason}" in found.text


def test_vectors_of_another_length_are_an_error():
    stored = make_features()
    longer = Features(IDS, np.ones((30, 12), np.float32), make_passport(dimension=12, model="larger"), stored.crc32s)
    found, severity = compare_vectors(stored, longer)
    assert (found.passed, severity) == (False, "error")
    assert "model fake / larger; dimension 8 / 12" in found.text


def test_texts_have_no_crc_and_zeros_equal_themselves():
    zeros = Features(["one", "two"], np.zeros((2, 8), np.float32), make_passport())
    found, _ = compare_vectors(zeros, zeros)
    assert (found.passed, found.numbers["probed"], found.numbers["smallest_cosine"]) == (True, 2, 1.0)
    nothing = zeros.take([])
    assert compare_vectors(nothing, nothing)[0].passed
