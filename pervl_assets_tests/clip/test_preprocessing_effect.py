import numpy as np
import pytest

from pervl_assets.clip.encoder import describe_encoder, load_encoder
from pervl_assets.clip.preprocessing import UPSTREAM, UPSTREAM_FAST
from pervl_assets.clip.preprocessing_effect import draw_images, measure_effect, round_up


def flatten(images):
    return images.reshape(len(images), -1).astype(np.float32)


def test_the_images_are_the_same_every_time_and_colour_jpegs():
    images = draw_images()
    assert images == draw_images()
    assert len(set(images)) == 16
    assert all(data[:2] == b"\xff\xd8" and len(data) > 10_000 for data in images)


def test_the_measure_is_the_largest_distance_between_both_ways():
    assert measure_effect(flatten, UPSTREAM) == 0
    assert 0 < measure_effect(flatten, UPSTREAM_FAST) < 1e-5
    calls = []

    def turn(images):  # the second way's vectors at right angles to the first's, in one image
        calls.append(len(images))
        vectors = np.tile([1.0, 0.0], (len(images), 1))
        vectors[3] = [2.0, 0.0] if len(calls) == 1 else [0.0, 0.5]
        return vectors.astype(np.float32)

    assert measure_effect(turn, UPSTREAM_FAST) == 1
    assert calls == [16, 16]


@pytest.mark.parametrize(
    ("value", "rounded"),
    [(0, 0), (1e-16, 0), (1.2e-9, 2e-9), (2e-7, 2e-7), (9.1e-6, 1e-5), (0.00123, 0.002), (1, 1), (1.9, 2)],
)
def test_effects_are_rounded_up_to_one_digit(value, rounded):
    assert round_up(value) == rounded


def test_an_encoder_of_the_fast_rule_carries_its_effect_and_is_the_one_announced(tiny_folder):
    announced = describe_encoder(str(tiny_folder), "", "cpu", None, "upstream_fast")
    one, again = (load_encoder(str(tiny_folder), "", "cpu", None, "upstream_fast") for _ in range(2))
    assert announced.preprocessing_effect is None
    assert one.passport.preprocessing_effect == again.passport.preprocessing_effect
    assert 0 <= one.passport.preprocessing_effect < 1e-4
    assert announced == one.passport
    assert announced.list_differences(one.passport) == []
    exact = load_encoder(str(tiny_folder), "", "cpu", None)
    assert exact.passport.preprocessing_effect is None
    (difference,) = exact.passport.list_differences(one.passport)
    assert difference.startswith("preprocessing resize 300")
