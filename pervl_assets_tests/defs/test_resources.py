import pytest

from pervl_assets.defs.resources import Clip
from pervl_assets.settings import Settings


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("upstream", "resize 300 bicubic (PIL, own mode) > centre crop 224 > RGB > /255"),
        ("model", "resize 224 bicubic (PIL, own mode) > centre crop 224 > RGB > /255"),
    ],
)
def test_the_preprocessing_setting_reaches_the_encoder(rule, words):
    clip = Clip.from_settings(Settings.from_env({"PERVL_PREPROCESSING": rule, "PERVL_DEVICE": "cpu"}))
    announced, encoder = clip.describe(), clip.load()
    assert announced.preprocessing.startswith(words)
    assert (encoder.passport, encoder.preprocessing.rule) == (announced, rule)
