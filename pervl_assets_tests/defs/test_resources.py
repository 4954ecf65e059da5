from pathlib import Path

import dagster as dg
import pytest

from pervl_assets.definitions import build_definitions
from pervl_assets.defs.downloads import Downloads
from pervl_assets.defs.resources import Clip, SettingsResource, Workspace
from pervl_assets.settings import Settings
from pervl_assets.testing.runs import make_settings


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


def test_a_run_with_wrong_values_fails_in_the_words_of_the_settings(instance):
    @dg.asset
    def idle(workspace: Workspace) -> None:
        pass

    workspace = Workspace.from_settings(make_settings(Path("nowhere")))
    wrong = Workspace(**{**workspace.model_dump(), "top_objects": -3, "workers": 0})
    run = dg.materialize([idle], resources={"workspace": wrong}, instance=instance, raise_on_error=False)
    (failure,) = [event for event in run.all_events if event.event_type == dg.DagsterEventType.RUN_FAILURE]
    assert failure.event_specific_data.error.message.splitlines() == [
        "PervlError: 1 setting of the run's config cannot be used.",  # 0 workers is what tests set
        "  top_objects=-3: must be greater than or equal to 1",
        "What to do: Correct or remove these values, and launch again.",
    ]
