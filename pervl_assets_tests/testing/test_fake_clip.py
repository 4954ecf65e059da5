"""The fake CLIP: its vectors are computed by hand; all other code is real."""

import io
import zipfile

import numpy as np
import polars as pl
import pytest
from PIL import Image

from pervl_assets.clip.features import read_features
from pervl_assets.clip.prepare_image import prepare_image
from pervl_assets.inversion.sources import locate_image
from pervl_assets.io_managers.base import locate_value
from pervl_assets.testing.fake_clip import FAKE_PASSPORT, FakeClip, FakeEncoder, issue_fake_passport
from pervl_assets.testing.runs import explain, run_selection
from pervl_assets.testing.worlds import locate_raw

MATCHES = '+key:"inversion/openimages_matches"'
SHARD = ["inversion", "coco_image_features"]


def spell(word: str) -> list[int]:
    return [word.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"]


def test_an_image_is_its_mean_colour_and_a_name_its_letters():
    left, right = np.full((4, 2, 3), (255, 0, 51), np.uint8), np.full((4, 2, 3), (0, 0, 51), np.uint8)
    encoder = FakeEncoder()
    vectors = encoder.encode_images(np.stack([np.concatenate([left, right], axis=1), np.zeros((4, 4, 3), np.uint8)]))
    assert (vectors.shape, vectors.dtype) == ((2, 29), np.float32)
    assert vectors[0].tolist() == pytest.approx([0.5, 0, 0.2] + [0] * 26)
    assert not vectors[1].any()
    names = encoder.encode_texts(["This is a photo of a Bobbin", "bobbin", "Ägir 7"])
    assert names.dtype == np.float32
    assert names[0].tolist() == names[1].tolist() == [0, 0, 0, *spell("bobbin")]
    assert names[2].tolist() == [0, 0, 0, *spell("gir")]
    assert (encoder.batches, encoder.images) == ([2], 2)
    assert encoder.texts == ["This is a photo of a Bobbin", "bobbin", "Ägir 7"]


@pytest.mark.parametrize("dimension", [2, 3, 8, 40])
def test_vectors_are_as_long_as_the_passport_says(dimension):
    encoder, whole = FakeEncoder(issue_fake_passport(dimension=dimension)), FakeEncoder()
    image, texts = np.full((1, 2, 2, 3), 51, np.uint8), ["abcdefg"]
    for short, long in (
        (encoder.encode_images(image), whole.encode_images(image)),
        (encoder.encode_texts(texts), whole.encode_texts(texts)),
    ):
        assert short.shape == (1, dimension)
        assert short[0].tolist() == [*long[0], *[0] * 20][:dimension]


def test_nothing_to_encode_returns_no_vectors():
    encoder = FakeEncoder()
    assert encoder.encode_texts([]).shape == (0, 29)
    assert encoder.encode_images(np.empty((0, 224, 224, 3), np.uint8)).shape == (0, 29)


def test_progress_is_reported():
    calls = []
    FakeEncoder().encode_texts(["a", "b"], on_progress=lambda *numbers: calls.append(numbers))
    assert calls == [(2, 2)]


def test_matches_are_known_before_they_are_made(materialize, data, fake_clip):
    result = materialize(MATCHES, resources={"clip": fake_clip})
    assert result.success, explain(result)
    matches = pl.read_parquet(locate_value(data, ["inversion", "openimages_matches"], ".parquet"))
    same = matches.filter(pl.col("name").str.to_lowercase() == pl.col("class_name"))
    assert same.height > 10
    assert same["distance"].to_list() == [0.0] * same.height
    assert matches.filter(pl.col("distance") == 0).height == same.height
    longer = matches.filter(name="Brown dog").row(0, named=True)
    apart = {
        name: sum((a - b) ** 2 for a, b in zip(spell("brown dog"), spell(name), strict=True))
        for name in pl.read_parquet(locate_value(data, ["inversion", "coco_object_classes"], ".parquet"))["name"]
    }
    assert longer["distance"] == min(apart.values()) == apart[longer["class_name"]]
    stored = read_features(locate_value(data, ["inversion", "openimages_text_features"], ".parquet"))
    assert stored.passport == FAKE_PASSPORT
    assert len(fake_clip.encoders) == 1


def test_image_features_are_stored_and_reused_as_real_ones_are(data, fake_clip):
    few = {"resources": {"clip": fake_clip}, "top_objects": 2}
    results = run_selection(data, f'+key:"{"/".join(SHARD)}"', **few)
    assert all(result.success for result in results), explain(*results)
    (encoder,) = fake_clip.encoders
    shards = [read_features(locate_value(data, SHARD, ".parquet", f"{number}-of-2")) for number in range(2)]
    assert encoder.images == sum(len(shard.ids) for shard in shards) > 0
    assert {shard.passport for shard in shards} == {FAKE_PASSPORT}
    with zipfile.ZipFile(locate_raw(data, "coco_train2014")) as archive:
        pixels = prepare_image(archive.read(locate_image(shards[0].ids[0])))
    colour = np.asarray(Image.open(io.BytesIO(save_png(pixels)))).mean(axis=(0, 1)) / 255
    assert shards[0].vectors[0, :3].tolist() == pytest.approx(colour.tolist())

    run_selection(data, f'key:"{"/".join(SHARD)}"', **few)
    assert len(fake_clip.encoders) == 1  # nothing is new
    other = FakeClip(issue_fake_passport(weights_sha256="other"))
    run_selection(data, f'key:"{"/".join(SHARD)}"', **{**few, "resources": {"clip": other}})
    assert sum(encoder.images for encoder in other.encoders) >= encoder.images


def save_png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
