from pathlib import Path

import pytest

from pervl_assets.core.errors import PervlError
from pervl_assets.settings import TINY_CLIP, Settings


def test_demo_is_the_default():
    settings = Settings.from_env({})
    assert settings.profile == "demo"
    assert settings.data == Path("data/demo").absolute()
    assert (settings.clip_model, settings.clip_pretrained) == (str(TINY_CLIP), "")
    assert (settings.feature_shards, settings.device, settings.precision) == (2, "auto", None)
    assert (settings.executor, settings.splits) == ("multiprocess", "official")
    assert settings.preprocessing == "upstream"
    assert (settings.fetch, settings.timezone, settings.watch_seconds) == ("official", "UTC", 300)
    assert settings.fresh_days == 9


def test_full_profile():
    settings = Settings.from_env({"PERVL_PROFILE": "full", "PERVL_ANNOTATIONS": "x", "PERVL_DATA": "/d"})
    assert settings.data == Path("/d")
    assert settings.annotations == Path("x").absolute()
    assert (settings.clip_model, settings.clip_pretrained) == ("ViT-B-32-quickgelu", "openai")
    assert (settings.top_objects, settings.feature_shards, settings.openimages_names) == (1000, 8, "csv")


def test_every_wrong_value_is_named_at_once():
    wrong = {
        "PERVL_PROFILE": "fool",
        "PERVL_DEVICE": "gpu",
        "PERVL_PRECISION": "fp8",
        "PERVL_PREPROCESSING": "fast",
        "PERVL_TOP_OBJECTS": "-3",
        "PERVL_OPENIMAGES_NAMES": "tsv",
        "PERVL_FEATURE_SHARDS": "0",
        "PERVL_SPLITS": "disjoint",
        "PERVL_EXECUTOR": "threads",
        "PERVL_FETCH": "ftp://mirror",
        "PERVL_TIMEZONE": "Mars/Olympus",
        "PERVL_VERIFY_CRON": "daily",
        "PERVL_WATCH_SECONDS": "often",
        "PERVL_FRESH_DAYS": "0",
    }
    with pytest.raises(PervlError) as caught:
        Settings.from_env(wrong)
    assert "14 environment variables" in caught.value.problem
    for name, value in wrong.items():
        assert f"{name}={value!r}" in str(caught.value)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:3"])
def test_devices(device):
    assert Settings.from_env({"PERVL_DEVICE": device}).device == device


@pytest.mark.parametrize("rule", ["upstream", "model"])
def test_preprocessing(rule):
    assert Settings.from_env({"PERVL_PREPROCESSING": rule}).preprocessing == rule


def test_empty_values_are_unset():
    assert Settings.from_env({"PERVL_DATA": "", "PERVL_TOP_OBJECTS": ""}) == Settings.from_env({})
