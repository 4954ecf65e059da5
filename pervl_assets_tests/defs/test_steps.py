"""`record_step`: seconds and settings of every materialization, and errors without a stack."""

import time
import traceback

import dagster as dg
import pytest

from pervl_assets.core.errors import BusyError, MissingInputError, WriteError
from pervl_assets.dagster_private import DATA_VERSION_TAG
from pervl_assets.definitions import build_definitions
from pervl_assets.defs import steps
from pervl_assets.defs.resources import Clip, Workspace
from pervl_assets.defs.run_results import read_run_result
from pervl_assets.defs.steps import INPUTS, SETTINGS, describe_settings, record_step
from pervl_assets.io_managers import metadata
from pervl_assets.io_managers.base import PervlIOManager
from pervl_assets.io_managers.metadata import SECONDS, make_failure, show_errors, show_errors_first
from pervl_assets.settings import Settings
from pervl_assets.testing.runs import make_settings

TEXT = "No zip.\n  where: here\nWhat to do: Get one."


class Clock:
    """A clock that only `work` advances."""

    def __init__(self) -> None:
        self.now = 100.0

    def read(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


CLOCK = Clock()


class SlowIOManager(PervlIOManager):
    """Takes 10 seconds to write a value, and 1,000 to read it."""

    extension = ".txt"

    def write(self, context, value, path):
        CLOCK.work(10)
        path.write_text(str(value))

    def load(self, path):
        CLOCK.work(1000)
        return path.read_text()


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Materialize assets under a fake clock; returns metadata by asset."""
    monkeypatch.setattr(time, "perf_counter", CLOCK.read)

    def materialize(*assets):
        result = dg.materialize(list(assets), resources={"io_manager": SlowIOManager(data=str(tmp_path))})
        events = result.get_asset_materialization_events()
        return {event.asset_key.to_user_string(): event.materialization.metadata for event in events}

    return materialize


def test_seconds_are_those_of_the_body_and_of_writing(run):
    @dg.asset
    @record_step
    def first() -> dg.MaterializeResult[str]:
        CLOCK.work(1)
        return dg.MaterializeResult(value="a", metadata={"rows": 3})

    @dg.asset
    @record_step
    def second(context: dg.AssetExecutionContext, first: str):
        assert (context.asset_key.to_user_string(), first) == ("second", "a")
        CLOCK.work(2)
        yield dg.MaterializeResult(value="b")

    made = run(first, second)
    assert {name: metadata[SECONDS].value for name, metadata in made.items()} == {"first": 11, "second": 12}
    assert made["first"]["rows"].value == 3


def test_each_of_several_results_records_the_time_since_the_one_before(run):
    @dg.multi_asset(outs={"left": dg.AssetOut(), "right": dg.AssetOut()})
    @record_step
    def both():
        CLOCK.work(5)
        yield dg.MaterializeResult(asset_key="left", value=1)
        CLOCK.work(0.25)
        yield dg.MaterializeResult(asset_key="right", value=2)

    assert {name: metadata[SECONDS].value for name, metadata in run(both).items()} == {"left": 15, "right": 10.25}


def test_an_asset_that_records_no_seconds_gets_none(run):
    @dg.asset
    def plain() -> dg.MaterializeResult[int]:
        return dg.MaterializeResult(value=1)

    assert SECONDS not in run(plain)["plain"]


# ---- settings


def test_settings_are_those_of_the_resources_that_the_body_uses(tmp_path):
    @dg.asset
    @record_step
    def table(workspace: Workspace) -> dg.MaterializeResult:
        return dg.MaterializeResult()

    workspace = Workspace.from_settings(make_settings(tmp_path, top_objects=7))
    (made,) = dg.materialize([table], resources={"workspace": workspace}).get_asset_materialization_events()
    settings = made.materialization.metadata[SETTINGS].value
    assert settings == describe_settings({"workspace": workspace})
    assert settings["workspace"]["top_objects"] == 7
    assert not {"data", "workers"} & set(settings["workspace"])


def test_settings_that_change_no_result_are_left_out(tmp_path):
    clip = Clip.from_settings(make_settings(tmp_path))
    assert describe_settings({"clip": clip.model_copy(update={"batch_size": 3})}) == describe_settings({"clip": clip})
    assert describe_settings({"clip": clip.model_copy(update={"precision": "fp16"})}) != describe_settings(
        {"clip": clip}
    )
    defs = build_definitions(make_settings(tmp_path))
    assert describe_settings({"downloads": defs.resources["downloads"]}) == {}


def test_another_file_of_weights_is_another_setting(tmp_path, monkeypatch):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"1")
    clip = build_clip({"PERVL_CLIP_MODEL": "ViT-B-32", "PERVL_CLIP_PRETRAINED": str(weights)})
    before = describe_settings({"clip": clip})
    weights.write_bytes(b"22")
    after = describe_settings({"clip": clip})
    assert before["clip"]["weights"][0][:2] == ["model.safetensors", 1]
    assert after["clip"]["weights"][0][:2] == ["model.safetensors", 2]
    (tmp_path / "openai").mkdir()
    (tmp_path / "openai/file").write_bytes(b"")
    monkeypatch.chdir(tmp_path)  # with a folder that is called as a pretrained tag
    assert describe_settings({"clip": build_clip({"PERVL_CLIP_MODEL": "RN50"})})["clip"]["weights"] == []


def build_clip(environment) -> Clip:
    return Clip.from_settings(Settings.from_env(environment))


def test_a_device_that_appears_is_another_setting(tmp_path, monkeypatch):
    """Vectors of a CPU and of a GPU do not mix, so all shards are made again."""
    driver = tmp_path / "version"
    monkeypatch.setattr(steps, "_DRIVER", driver)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def read():
        found = describe_settings({"clip": build_clip({"PERVL_DEVICE": "auto"})})["clip"]
        return found["device"], found["precision"]

    assert read() == ("cpu", "fp32")
    driver.touch()
    assert read() == ("cuda", "fp16")


def test_the_settings_of_an_encoder_are_its_own():
    key, two = dg.AssetKey(["inversion", "coco_image_features"]), "RN50=openai,RN101=openai"
    plain, more = build_clip({}), build_clip({"PERVL_ENCODERS": two})
    assert describe_settings({"clip": plain}, key) == describe_settings({"clip": more}, key)
    other = describe_settings({"clip": more}, dg.AssetKey(["inversion", "RN101_openai", "coco_image_features"]))
    assert (other["clip"]["model"], other["clip"]["preprocessing"]) == ("RN101", "model")


def test_the_evaluation_does_not_depend_on_the_setting_of_the_preprocessing():
    keys = [
        dg.AssetKey(["evaluation", "ytvos", "image_features"]),
        dg.AssetKey(["training", "ytvos", "concept_tokens"]),
    ]
    for key in keys:
        assert describe_settings({"clip": build_clip({})}, key)["clip"]["preprocessing"] == "model"
    assert build_clip({}).as_published() == build_clip({"PERVL_PREPROCESSING": "model"})


def test_only_settings_that_an_asset_uses_are_recorded(tmp_path):
    @dg.asset
    @record_step(uses=("profile",))
    def table(workspace: Workspace) -> dg.MaterializeResult:
        return dg.MaterializeResult()

    workspace = Workspace.from_settings(make_settings(tmp_path))
    (made,) = dg.materialize([table], resources={"workspace": workspace}).get_asset_materialization_events()
    assert made.materialization.metadata[SETTINGS].value == {"workspace": {"profile": "demo"}}


# ---- errors


def fail():
    raise MissingInputError("No zip.", details=["where: here"], advice="Get one.")


def read_errors(result):
    return {event.event_type_value: event.event_specific_data.error for event in result.all_events if event.is_failure}


def test_step_and_run_show_the_message_first():
    @dg.asset
    @record_step
    def plain():
        fail()

    errors = read_errors(dg.materialize([plain], raise_on_error=False))
    failures = {"STEP_FAILURE", "PIPELINE_FAILURE"}
    assert set(errors) == failures
    assert {errors[kind].message for kind in failures} == {f"MissingInputError: {TEXT}\n"}
    assert "in fail" in "".join(errors["STEP_FAILURE"].cause.stack)  # the origin of the error is kept


def test_generators_and_checks_show_it_too():
    @dg.asset(check_specs=[dg.AssetCheckSpec("fine", asset="stream")])
    @record_step
    def stream():
        yield dg.AssetCheckResult(check_name="fine", passed=True)
        fail()

    @dg.asset_check(asset="other")
    @record_step
    def check():
        fail()

    @dg.asset
    @record_step
    def other():
        pass

    result = dg.materialize([stream, check, other], raise_on_error=False)
    failed = {event.step_key: event.step_failure_data.error for event in result.all_events if event.is_step_failure}
    assert set(failed) == {"stream", "other_check"}
    assert {error.message for error in failed.values()} == {f"MissingInputError: {TEXT}\n"}
    assert all(error.cause.cls_name == "MissingInputError" and error.cause.cause is None for error in failed.values())


def test_other_errors_pass_unchanged():
    with pytest.raises(ZeroDivisionError), show_errors():
        raise ZeroDivisionError


def test_an_end_by_a_user_is_said_in_our_words_and_stays_an_interruption():
    """Of the class that Dagster raises at a signal: a run that ends with it is canceled, and has not failed."""
    with (
        pytest.raises(dg.DagsterExecutionInterruptedError, match="finished work is kept"),
        show_errors(),
        show_errors(),
    ):
        raise dg.DagsterExecutionInterruptedError


def test_outside_of_steps_dagster_passes_our_errors_on_as_its_own():
    error = MissingInputError("No zip.", details=["here"], advice="Get one.")
    with pytest.raises(MissingInputError) as caught, show_errors_first():
        raise error
    assert isinstance(caught.value, dg.DagsterError)
    assert (str(caught.value), caught.value.details) == (str(error), ("here",))
    assert traceback.format_exception_only(caught.value)[0].startswith("MissingInputError: No zip.")  # no module


def test_a_step_ends_at_once_on_an_error_after_it_was_given_up(instance, monkeypatch, capsys):
    seen: list[bool] = []
    ended: list[int] = []

    @dg.asset(retry_policy=dg.RetryPolicy(max_retries=1))
    @record_step(uses=())
    def encoded(context: dg.AssetExecutionContext) -> None:
        seen.append(metadata._is_given_up())
        if context.retry_number:  # as if the run had lost sight of it, and had ordered another attempt
            monkeypatch.setattr(steps, "is_given_up", lambda step: step.retry_number == 1)
        raise BusyError("Another run is encoding it.", advice="Wait.")

    monkeypatch.setattr(metadata, "_is_given_up", bool)
    monkeypatch.setattr(metadata.os, "_exit", ended.append)
    dg.materialize([encoded], instance=instance, raise_on_error=False)
    assert "This step was given up, and ends: Another run is encoding it." in capsys.readouterr().err
    assert (seen, ended) == ([False, False], [1])


@dg.asset
@record_step(uses=())
def source() -> dg.MaterializeResult[str]:
    return dg.MaterializeResult(value="", data_version=dg.DataVersion("old"))


@dg.asset(retry_policy=dg.RetryPolicy(max_retries=1))
@record_step(uses=())
def reader(source: str) -> dg.MaterializeResult[str]:
    return dg.MaterializeResult(value=source)


def test_an_attempt_that_was_given_up_while_its_inputs_were_read_ends_at_once(instance, monkeypatch, tmp_path):
    ended: list[int] = []
    monkeypatch.setattr(metadata, "_is_given_up", bool)  # and put back at the end
    monkeypatch.setattr(metadata.os, "_exit", ended.append)
    monkeypatch.setattr(steps, "is_given_up", lambda step: True)
    resources = {"io_manager": SlowIOManager(data=str(tmp_path))}
    dg.materialize([source, reader], instance=instance, resources=resources, selection=[reader], raise_on_error=False)
    assert ended == [1]


def test_an_input_that_is_replaced_while_it_is_read_is_recorded_as_it_was(instance, monkeypatch, tmp_path):
    """So the result is outdated."""

    def read_inputs(**chosen):
        resources = {"io_manager": SlowIOManager(data=str(tmp_path))}
        result = dg.materialize([source, reader], instance=instance, resources=resources, **chosen)
        (made,) = result.asset_materializations_for_node("reader")
        return made.metadata[INPUTS].value

    def load(manager, path):
        instance.report_runless_asset_event(dg.AssetMaterialization("source", tags={DATA_VERSION_TAG: "new"}))
        return path.read_text()

    old = read_inputs()
    monkeypatch.setattr(SlowIOManager, "load", load)
    assert read_inputs(selection=[reader]) == old
    assert read_inputs(selection=[reader]) != old


def test_an_error_is_shown_although_the_database_does_not_answer(monkeypatch):
    def ask() -> bool:
        raise ConnectionError("Postgres is away.")

    monkeypatch.setattr(metadata, "_is_given_up", ask)
    with pytest.raises(dg.Failure, match="Full"), show_errors():
        raise WriteError("Full.", advice="Make room.")


def test_only_an_error_that_may_pass_is_tried_again(instance, monkeypatch):
    monkeypatch.setattr(metadata, "_is_given_up", bool)  # what the steps set is put back at the end
    policy, tries = dg.RetryPolicy(max_retries=2), []

    @dg.asset(retry_policy=policy)
    @record_step(uses=())
    def busy() -> None:
        tries.append("busy")
        if len(tries) < 3:
            raise BusyError("Another run is building it.", advice="Wait.")

    @dg.asset(retry_policy=policy)
    @record_step(uses=())
    def wrong() -> None:
        tries.append("wrong")
        fail()

    run = dg.materialize([busy], instance=instance)
    findings = [(one.asset, one.severity, one.text) for one in read_run_result(instance, run.run_id).findings]
    text = "an attempt failed: Another run is building it.\nWhat to do: Wait."
    assert (run.success, tries, findings) == (True, ["busy"] * 3, [("busy", "warning", text)] * 2)
    assert not dg.materialize([wrong], instance=instance, raise_on_error=False).success
    assert tries.count("wrong") == 1


def test_a_failure_can_have_numbers():
    failure = make_failure(WriteError("Full.", advice="Make room."), errors=3)
    assert isinstance(failure, dg.Failure)
    assert (failure.description, failure.metadata["errors"].value) == ("Full.\nWhat to do: Make room.", 3)


def test_every_asset_and_check_of_the_project_is_decorated(tmp_path):
    defs = build_definitions(make_settings(tmp_path))
    ops = [op for one in [*defs.assets, *defs.asset_checks] for op in one.node_def.iterate_op_defs()]
    assert len(ops) > 30
    bodies = {op.name: op.compute_fn.decorated_fn.__code__.co_filename for op in ops}
    assert [name for name, file in bodies.items() if file != steps.__file__] == []


def test_a_missing_archive_and_a_missing_value_are_reported(materialize, tmp_path):
    (tmp_path / "data").mkdir()
    for selection, partition, words in (
        ('key:"raw/youtube_vos_train"', None, "MissingInputError: Input not found: "),
        ('key:"deep_fashion/personalized"', "test", "MissingInputError: The value of "),
    ):
        result = materialize(selection, partition, data=tmp_path / "data", profile="full")
        assert {error.message[: len(words)] for error in read_errors(result).values()} == {words}
