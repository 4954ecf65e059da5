"""Drift measured with an encoder of known vectors."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pervl_assets.archives.inputs import RawArchive, identify
from pervl_assets.archives.members import open_members
from pervl_assets.clip.drift import (
    COSINE_BOUNDS,
    SAMPLE_SIZE,
    TOLERANCES,
    choose_sample,
    encode_again,
    measure_drift,
    take_sample,
)
from pervl_assets.clip.features import Features, merge_features
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
def stored(coco):
    """All images, encoded by the fake encoder; the names of their members are the archive's own order."""
    from pervl_assets.clip.prepare_image import prepare_image

    vectors = FakeEncoder().encode_images(np.stack([prepare_image(PHOTOS[image_id]) for image_id in IDS]))
    return Features(IDS, vectors, make_passport(), [coco.crc32(name_member(image_id)) for image_id in IDS])


def name_member(image_id):
    return f"train2014/COCO_train2014_{int(image_id):012d}.jpg"


def probe(stored, members, encoder, size=SAMPLE_SIZE, **options):
    sample = take_sample(stored, size)
    return encode_again(sample, [name_member(image_id) for image_id in sample.ids], members, encoder, **options)


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
    shards = [sorted(ids)[part::parts] for part in range(parts)]
    features = [
        Features(shard, np.zeros((len(shard), 8), np.float32), make_passport(), [1] * len(shard)) for shard in shards
    ]
    assert take_sample(merge_features([take_sample(part, size) for part in features]), size).ids == choose_sample(
        ids, size
    )
    left = set(choose_sample(ids, size)) - set(choose_sample(sorted(ids)[1:], size))
    assert len(left) <= 1  # one id less changes at most one


def test_a_sample_has_its_vectors_and_crcs(stored):
    sample = take_sample(stored, 5)
    rows = [stored.ids.index(one) for one in sample.ids]
    assert len(rows) == 5
    assert np.array_equal(sample.vectors, stored.vectors[rows])
    assert sample.crc32s == [stored.crc32s[row] for row in rows]


def test_unchanged_images_have_not_moved(coco, stored):
    encoder = FakeEncoder()
    drift = probe(stored, coco, encoder, 20, batch_size=7)
    assert (drift.sample, drift.compared, encoder.batches) == (20, 20, [7, 7, 6])
    assert (drift.largest_difference, drift.largest_relative_difference) == (0.0, 0.0)
    assert drift.smallest_cosine == pytest.approx(1.0)
    assert (drift.lost, drift.passport_differences, len(drift.worst)) == ((), (), 8)
    passed, text = drift.check()
    assert passed
    assert text.startswith("20 of a sample of 20 vectors encoded again: largest difference 0, relative 0 ")


@pytest.mark.parametrize("precision", list(TOLERANCES))
def test_noise_is_within_the_tolerance_of_its_precision(coco, stored, precision):
    stored = dataclasses.replace(stored, passport=make_passport(precision=precision))
    noise = TOLERANCES[precision] / 2
    drift = probe(stored, coco, MovedEncoder(1 + noise, precision=precision))
    assert drift.largest_relative_difference == pytest.approx(noise, rel=0.05)
    assert drift.largest_difference == pytest.approx(noise * np.abs(stored.vectors).max(), rel=0.05)
    assert drift.check()[0]
    drift = probe(stored, coco, MovedEncoder(1 + 4 * noise, precision=precision))
    passed, text = drift.check()
    assert (passed, drift.is_error) == (False, False)  # longer, but not turned: a warning
    assert "The passport is the same, so something it does not name has changed" in text
    assert "run `pervl verify`" in text


def test_the_coarser_of_two_precisions_sets_the_tolerance(coco, stored):
    drift = probe(stored, coco, MovedEncoder(1.02, precision="bf16"))
    assert (drift.tolerance, drift.cosine_bound) == (TOLERANCES["bf16"], COSINE_BOUNDS["bf16"])
    assert drift.check()[0]


def test_a_changed_checkpoint_is_an_error_with_advice(coco, stored):
    drift = probe(stored, coco, MovedEncoder(1.0, 2.0, weights_sha256="c" * 64))
    assert drift.is_error
    assert drift.worst[0]["cosine"] == drift.smallest_cosine < 0.9
    passed, text = drift.check()
    assert not passed
    assert f"differs in weights_sha256 {'b' * 64} / {'c' * 64}" in text
    assert "Materialize the features again" in text
    assert "the vectors were replaced" in drift.check(replaced=True)[1]


def test_damaged_vectors_are_found(coco, stored):
    vectors = stored.vectors.copy()
    rows = [stored.ids.index(one) for one in choose_sample(stored.ids, 3)]
    vectors[rows[0]], vectors[rows[1], 3] = -vectors[rows[0]], np.nan
    drift = probe(dataclasses.replace(stored, vectors=vectors), coco, FakeEncoder(), 3)
    assert drift.is_error
    assert drift.smallest_cosine == -1.0
    assert {row["id"] for row in drift.worst[:2]} == {stored.ids[row] for row in rows[:2]}
    assert np.isfinite([drift.largest_difference, drift.largest_relative_difference]).all()


def test_images_that_left_the_archive_or_are_others_now_are_not_compared(tmp_path, stored):
    gone, other, broken = choose_sample(IDS, 3)
    photos = {**PHOTOS, other: draw_jpeg(99)}
    del photos[gone]
    path = tmp_path / "after.zip"
    write_coco(path, photos)
    data = bytearray(path.read_bytes())
    data[data.index(PHOTOS[broken]) + 300] ^= 255  # its CRC in the directory is the former one: it cannot be read
    path.write_bytes(data)
    drift = probe(stored, open_members(RawArchive(path, identify(path))), FakeEncoder(), 10)
    assert (drift.sample, drift.compared, drift.largest_difference) == (10, 7, 0.0)
    assert drift.lost[0] == f"{gone}: not in the archive any more"
    assert drift.lost[1] == f"{other}: another image in the archive now"
    assert "CRC" in drift.lost[2]
    passed, text = drift.check()
    assert (passed, drift.is_error) == (False, False)
    assert f"Not compared: {gone}: not in the archive any more" in text


def test_vectors_of_another_length_are_an_error(coco, stored):
    drift = probe(stored, coco, MovedEncoder(dimension=12, model="larger"))
    assert (drift.sample, drift.compared, drift.is_error) == (30, 0, True)
    passed, text = drift.check()
    assert not passed
    assert "model fake / larger; dimension 8 / 12" in text


def test_without_vectors_there_is_nothing_to_encode_again(coco):
    encoder = FakeEncoder()
    drift = probe(Features([], np.empty((0, 8), np.float32), make_passport(), []), coco, encoder)
    assert (drift.sample, drift.compared, drift.is_error, encoder.images) == (0, 0, False, 0)
    assert drift.check() == (True, "no vector is stored, so there is nothing to encode again")


def test_a_vector_of_zeros_equals_itself():
    zeros = Features(["1 "], np.zeros((1, 8), np.float32), make_passport(), [1])
    drift = measure_drift(zeros, zeros.vectors, zeros.passport)
    assert (drift.smallest_cosine, drift.largest_relative_difference) == (1.0, 0.0)
