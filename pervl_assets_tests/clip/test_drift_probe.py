"""The drift probe on an encoder with known vectors: the sample, the measure, the verdict."""

import dataclasses
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.archives.members import open_members
from pervl_assets.clip.drift import COSINE_BOUNDS, TOLERANCES, Drift, check_drift, measure_drift, merge_drifts
from pervl_assets.clip.drift_probe import (
    SAMPLE_SIZE,
    choose_sample,
    probe_images,
    probe_names,
    share_sample,
    take_sample,
)
from pervl_assets.clip.encode_images import encode_image_shard
from pervl_assets.clip.features import Features, encode_names, read_features, write_features
from pervl_assets.inversion.sources import locate_image
from pervl_assets_tests.inversion.kit import FakeEncoder, draw_jpeg, make_passport, write_coco

IDS = sorted(f"{number * 37} " for number in range(1, 31))
PHOTOS = {image_id: draw_jpeg(seed) for seed, image_id in enumerate(IDS)}


class MovedEncoder(FakeEncoder):
    """The fake encoder, its vectors moved by a known amount."""

    def __init__(self, factor=1.0, shift=0.0, **changes):
        super().__init__(make_passport(**changes))
        self.factor, self.shift = factor, np.float32(shift)

    def encode_images(self, images):
        moved = super().encode_images(images) * np.float32(self.factor)
        moved[:, 0] += self.shift * np.linalg.norm(moved, axis=1)
        return moved


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "train2014.zip", PHOTOS)


@pytest.fixture
def stored(coco, tmp_path):
    encoder = FakeEncoder()
    return encode_image_shard(IDS, coco, encoder.passport, lambda: encoder, tmp_path / "stored.partial")


def name_classes(stored, **changes):
    """Return two classes: one beside the first stored vector, the other far from all."""
    vectors = np.stack([stored.vectors[0], stored.vectors[0] + 500]).astype(np.float32)
    return Features(["near", "far"], vectors, make_passport(**changes))


# ---- the sample


def test_the_sample_is_the_same_on_every_machine():
    ids = [f"{number} " for number in range(1000)]
    assert choose_sample(ids, 4) == ["56 ", "473 ", "96 ", "714 "]  # as coreutils' sha256sum has them
    assert choose_sample(reversed(ids), 4) == choose_sample(ids, 4)
    assert choose_sample(ids, 4, seed="other") != choose_sample(ids, 4)
    assert len(choose_sample(ids)) == SAMPLE_SIZE
    assert choose_sample(["7 ", "7 "], 4) == ["7 "]
    assert choose_sample([], 4) == []


@settings(max_examples=25, deadline=None)
@given(ids=st.sets(st.text(max_size=6), max_size=40), size=st.integers(1, 8), parts=st.integers(1, 4))
def test_the_sample_over_shards_is_that_of_all_ids(ids, size, parts):
    shards = [sorted(ids)[part::parts] for part in range(parts)]
    features = [Features(shard, np.zeros((len(shard), 8), np.float32), make_passport()) for shard in shards]
    shared = share_sample([take_sample(part, size) for part in features], size)
    assert sorted(one for part in shared for one in part.ids) == sorted(choose_sample(ids, size))
    left = set(choose_sample(ids, size)) - set(choose_sample(sorted(ids)[1:], size))
    assert len(left) <= 1  # one id less moves the sample by one at most


def test_a_sample_carries_its_vectors_and_crcs(stored):
    sample = take_sample(stored, 5)
    assert len(sample.ids) == 5
    rows = [stored.ids.index(one) for one in sample.ids]
    assert np.array_equal(sample.vectors, stored.vectors[rows])
    assert sample.crc32s == [stored.crc32s[row] for row in rows]


# ---- images


def test_unchanged_images_have_not_moved(coco, stored):
    encoder = FakeEncoder()
    drift = probe_images(stored, coco, encoder, name_classes(stored), batch_size=7, size=20)
    assert (drift.sample, drift.compared, encoder.images) == (20, 20, 20)
    assert max(encoder.batches) == 7
    assert (drift.largest_difference, drift.largest_relative_difference) == (0.0, 0.0)
    assert drift.smallest_cosine == pytest.approx(1.0)
    assert drift.changed_nearest_classes == 0
    assert (drift.lost, drift.passport_differences) == ({}, ())
    verdict = check_drift(drift)
    assert verdict.passed
    assert verdict.text.startswith("20 of a sample of 20 vectors encoded again: largest difference 0, relative 0 ")
    assert Drift.from_json(drift.to_json()) == drift


@pytest.mark.parametrize("precision", list(TOLERANCES))
def test_noise_is_within_the_tolerance_of_its_precision(coco, stored, precision):
    stored = dataclasses.replace(stored, passport=make_passport(precision=precision))
    noise = TOLERANCES[precision] / 2
    drift = probe_images(stored, coco, MovedEncoder(1 + noise, precision=precision), name_classes(stored))
    assert drift.largest_relative_difference == pytest.approx(noise, rel=0.05)
    assert drift.largest_difference == pytest.approx(noise * np.abs(stored.vectors).max(), rel=0.05)
    assert check_drift(drift).passed
    drift = probe_images(stored, coco, MovedEncoder(1 + 4 * noise, precision=precision), name_classes(stored))
    verdict = check_drift(drift)
    assert (verdict.passed, verdict.is_error) == (False, False)  # longer, but not turned: a warning
    assert "The passport is the same, so something it does not name has changed" in verdict.text
    assert "run `pervl verify`" in verdict.text


def test_the_coarser_of_two_precisions_sets_the_tolerance(coco, stored):
    drift = probe_images(stored, coco, MovedEncoder(1.02, precision="bf16"))
    assert (drift.tolerance, drift.cosine_bound) == (TOLERANCES["bf16"], COSINE_BOUNDS["bf16"])
    assert drift.changed_nearest_classes is None
    assert check_drift(drift).passed


def test_a_changed_checkpoint_is_an_error_with_advice(coco, stored):
    drift = probe_images(stored, coco, MovedEncoder(1.0, 2.0, weights_sha256="c" * 64), name_classes(stored))
    assert drift.smallest_cosine < 0.9
    assert len(drift.worst) == 8
    assert drift.worst[0]["cosine"] == drift.smallest_cosine
    verdict = check_drift(drift)
    assert (verdict.passed, verdict.is_error) == (False, True)
    assert f"differs in weights_sha256 {'b' * 64} / {'c' * 64}" in verdict.text
    assert "Materialize the features again" in verdict.text
    replaced = check_drift(drift, replaced=True)  # a change that was made on purpose, and is over
    assert (replaced.passed, replaced.is_error) == (False, False)
    assert "the vectors were replaced" in replaced.text


def test_changed_nearest_classes_are_counted_and_an_error_beyond_the_tolerance(coco, stored):
    # Two classes just beside one another between which a vector crosses over when it grows by a tenth.
    middle = stored.vectors[:1] * 1.05
    step = 0.01 * stored.vectors[:1]
    classes = Features(["below", "above"], np.concatenate([middle - step, middle + step]), make_passport())
    one = dataclasses.replace(stored, ids=stored.ids[:1], vectors=stored.vectors[:1], crc32s=stored.crc32s[:1])
    drift = probe_images(one, coco, MovedEncoder(1.1), classes)
    assert drift.changed_nearest_classes == 1
    assert (drift.worst[0]["class_before"], drift.worst[0]["class_now"]) == ("below", "above")
    assert drift.smallest_cosine > COSINE_BOUNDS["fp32"]
    assert check_drift(drift).is_error


def test_a_nearest_class_that_changes_within_the_tolerance_is_a_warning(coco, stored):
    middle, step = stored.vectors[:1] * (1 + 2e-5), 0.01 * stored.vectors[:1]
    classes = Features(["below", "above"], np.concatenate([middle - step, middle + step]), make_passport())
    one = dataclasses.replace(stored, ids=stored.ids[:1], vectors=stored.vectors[:1], crc32s=stored.crc32s[:1])
    drift = probe_images(one, coco, MovedEncoder(1 + 4e-5), classes)
    assert drift.changed_nearest_classes == 1
    verdict = check_drift(drift)
    assert (verdict.passed, verdict.is_error) == (False, False)
    assert "No vector moved beyond the tolerance" in verdict.text


def test_a_damaged_vector_is_found(coco, stored, tmp_path):
    vectors = stored.vectors.copy()
    rows = [stored.ids.index(one) for one in choose_sample(stored.ids, 3)]
    vectors[rows[0]], vectors[rows[1], 3] = -vectors[rows[0]], np.nan
    write_features(dataclasses.replace(stored, vectors=vectors), tmp_path / "damaged.parquet")
    drift = probe_images(read_features(tmp_path / "damaged.parquet"), coco, FakeEncoder(), name_classes(stored), size=3)
    assert drift.smallest_cosine == -1.0
    assert {row["id"] for row in drift.worst[:2]} == {stored.ids[row] for row in rows[:2]}
    assert drift.changed_nearest_classes >= 1
    assert np.isfinite([drift.largest_difference, drift.largest_relative_difference]).all()
    assert check_drift(drift).is_error


def test_images_that_left_the_archive_or_are_others_now_are_counted_and_not_compared(tmp_path, stored):
    gone, other, broken = choose_sample(IDS, 3)
    photos = {**PHOTOS, other: draw_jpeg(99)}
    del photos[gone]
    path = tmp_path / "after.zip"
    write_coco(path, photos)
    data = bytearray(path.read_bytes())
    data[data.index(PHOTOS[broken]) + 300] ^= 255  # its CRC in the directory is the former one: it cannot be read
    path.write_bytes(data)
    drift = probe_images(stored, open_members(RawArchive(path, identify(path))), FakeEncoder(), size=10)
    assert (drift.sample, drift.compared) == (10, 7)
    assert drift.lost.keys() == {gone, other, broken}
    assert drift.lost[gone] == "not in the archive any more"
    assert drift.lost[other] == "another image in the archive now"
    assert "CRC" in drift.lost[broken]
    assert drift.largest_difference == 0.0
    verdict = check_drift(drift)
    assert (verdict.passed, verdict.is_error) == (False, False)
    assert "not in the archive any more" in verdict.text


def test_an_archive_without_any_of_them_compares_nothing(tmp_path, stored):
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr(locate_image("999999 "), draw_jpeg(1))
    other = open_members(RawArchive(tmp_path / "other.zip", identify(tmp_path / "other.zip")))
    drift = probe_images(stored, other, FakeEncoder(), name_classes(stored), size=4)
    assert (drift.compared, drift.changed_nearest_classes) == (0, 0)
    verdict = check_drift(drift)
    assert not verdict.passed
    assert verdict.text.startswith("none of a sample of 4 vectors could be encoded again")


def test_vectors_of_another_length_are_not_compared_and_an_error(coco, stored):
    encoder = MovedEncoder(dimension=12, model="larger")
    drift = probe_images(stored, coco, encoder, name_classes(stored))
    assert (drift.sample, drift.compared, encoder.images) == (30, 0, 0)
    assert drift.changed_nearest_classes is None
    verdict = check_drift(drift)
    assert (verdict.passed, verdict.is_error) == (False, True)
    assert "its vector has 8 numbers, a new one has 12" in verdict.text
    assert "model fake / larger" in verdict.text


def test_an_empty_shard_has_nothing_to_encode_again(coco):
    empty = Features([], np.empty((0, 8), np.float32), make_passport(), [])
    encoder = FakeEncoder()
    drift = probe_images(empty, coco, encoder)
    assert (drift.sample, drift.compared, encoder.images) == (0, 0, 0)
    verdict = check_drift(drift)
    assert verdict.passed
    assert verdict.text == "no vector is stored, so there is nothing to encode again"


def test_classes_of_another_length_give_no_nearest_class(coco, stored):
    classes = Features(["one"], np.zeros((1, 12), np.float32), make_passport(dimension=12))
    assert probe_images(stored, coco, FakeEncoder(), classes, size=3).changed_nearest_classes is None


def test_drifts_of_shards_are_summed_up(coco, stored):
    still = probe_images(stored, coco, FakeEncoder(), name_classes(stored), size=5)
    moved = probe_images(stored, coco, MovedEncoder(1.0, 2.0, torch="1"), size=7)
    both = merge_drifts([still, moved])
    assert (both.sample, both.compared) == (12, 12)
    assert both.largest_difference == moved.largest_difference
    assert both.smallest_cosine == moved.smallest_cosine == both.worst[0]["cosine"]
    assert both.changed_nearest_classes == still.changed_nearest_classes
    assert both.passport_differences == ("torch 0 / 1",)


def test_a_vector_of_zeros_is_like_itself():
    zeros = Features(["1 "], np.zeros((1, 8), np.float32), make_passport(), [1])
    drift = measure_drift(zeros, zeros)
    assert (drift.smallest_cosine, drift.largest_relative_difference) == (1.0, 0.0)


# ---- names


def test_names_are_probed_in_the_prompt():
    encoder = FakeEncoder()
    names = ["man", "goose", "man", "Man", *(f"name {number}" for number in range(20))]
    stored = encode_names(encoder, names)
    encoder.texts.clear()
    drift = probe_names(stored, encoder, stored, size=6)
    assert sorted(encoder.texts) == sorted(f"This is a photo of a {name}" for name in choose_sample(names, 6))
    assert (drift.compared, drift.largest_difference, drift.changed_nearest_classes) == (6, 0.0, 0)
    moved = Features(stored.ids, stored.vectors * 2, stored.passport)
    drift = probe_names(moved, encoder, size=6)
    assert drift.largest_relative_difference == pytest.approx(0.5)
    encoder.passport = make_passport(dimension=12)
    assert not check_drift(probe_names(stored, encoder)).passed
