import pickle

import pytest

from pervl_assets.clip.preprocessing import (
    CLIP_MEAN,
    CLIP_STD,
    UPSTREAM,
    Preprocessing,
    choose_preprocessing,
)
from pervl_assets.core.errors import CheckpointError


def choose(mode, vision=None, **published):
    return choose_preprocessing(mode, "Some-Model", vision or {}, published)


def test_upstreams_words_are_those_of_passports_stored_before_there_was_a_choice():
    assert UPSTREAM.describe() == "resize 300 bicubic (PIL, own mode) > centre crop 224 > RGB > /255 > CLIP mean, std"


def test_every_rule_has_words_of_its_own():
    modes = [
        UPSTREAM,
        choose("model"),
        choose("model", {"image_size": 336}),
        choose("model", resize_mode="squash"),
        choose("model", interpolation="bilinear"),
        choose("model", mean=0.5),
        choose("model", std=[0.5, 0.5, 0.25]),
    ]
    assert len({mode.describe() for mode in modes}) == len(modes)
    assert modes[-1].describe().endswith("mean [0.48145466, 0.4578275, 0.40821073], std [0.5, 0.5, 0.25]")
    assert pickle.loads(pickle.dumps(modes)) == modes


def test_the_models_own_rule_is_read_from_what_was_published():
    assert choose("model") == Preprocessing("model", 224, 224)
    assert choose("model", {"image_size": [336, 336]}, mean=None, std=CLIP_STD) == Preprocessing("model", 336, 336)
    own = choose("model", {"image_size": 96}, mean=0.5, std=[0.25] * 3, interpolation="bilinear", resize_mode="squash")
    assert own == Preprocessing("model", 96, 96, "bilinear", True, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


@pytest.mark.parametrize(
    ("vision", "published", "named"),
    [
        ({"image_size": [224, 336]}, {}, "224 x 336"),
        ({}, {"resize_mode": "longest"}, "'longest'"),
        ({}, {"interpolation": "random"}, "'random'"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(vision, published, named):
    with pytest.raises(CheckpointError, match=f"Some-Model takes (.|\n)*{named}"):
        choose("model", vision, **published)


@pytest.mark.parametrize(
    ("vision", "published"),
    [({"image_size": "large"}, {}), ({"image_size": []}, {}), ({}, {"mean": [1]}), ({}, {"std": "x"})],
)
def test_a_configuration_that_makes_no_sense_is_refused(vision, published):
    with pytest.raises(CheckpointError, match=r"configuration of Some-Model(.|\n)*one number or three"):
        choose("model", vision, **published)


def test_upstreams_rule_is_for_models_that_take_its_pixels():
    assert choose("upstream", {"image_size": 224}, mean=list(CLIP_MEAN), std=CLIP_STD) is UPSTREAM
    assert choose("upstream", resize_mode="longest", interpolation="random") is UPSTREAM
    for vision, published in (({"image_size": 336}, {}), ({}, {"mean": [0.5] * 3}), ({}, {"std": 0.5})):
        with pytest.raises(CheckpointError, match=r"Some-Model takes images of(.|\n)*PERVL_PREPROCESSING=model"):
            choose("upstream", vision, **published)
