import pytest

from pervl_assets.definitions import build_definitions
from pervl_assets.defs.downloads import Downloads
from pervl_assets.defs.resources import Clip, SettingsResource, Workspace
from pervl_assets.settings import Settings


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        ("upstream", "resize 300 bicubic (PIL, own mode) > centre crop 224 > RGB > /255"),
        ("model", "resize 224 bicubic (PIL, own mode) > centre crop 224 > RGB > /255"),
    ],
)
def test_the_preprocessing_setting_reaches_the_encoder(mode, words):
    clip = Clip.from_settings(Settings.from_env({"PERVL_PREPROCESSING": mode, "PERVL_DEVICE": "cpu"}))
    announced, encoder = clip.describe(), clip.load()
    assert announced.preprocessing.startswith(words)
    assert (encoder.passport, encoder.preprocessing.mode) == (announced, mode)


def test_resources_hold_the_settings_of_the_environment():
    env = {"PERVL_CLIP_MODEL": "ViT-L-14", "PERVL_BATCH_SIZE": "7", "PERVL_DATA": "/d", "PERVL_FETCH": "off"}
    resources = build_definitions(Settings.from_env(env)).resources
    assert (resources["clip"].model, resources["clip"].pretrained) == ("ViT-L-14", "openai")
    assert (resources["clip"].batch_size, resources["workspace"].data) == (7, "/d")
    assert resources["downloads"].source == "off"


@pytest.mark.parametrize("resource", [Workspace, Clip, Downloads])
def test_fields_of_resources_are_described_as_the_settings_are(resource: type[SettingsResource]):
    for name, field in resource.model_fields.items():
        assert field.description, name
        if field.json_schema_extra:
            setting = Settings.model_fields[field.json_schema_extra["setting"]]
            assert field.description.startswith(setting.description), name
