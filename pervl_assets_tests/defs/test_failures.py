"""A failed step and a failed run tell what is wrong first, line by line, as the terminal does."""

import dagster as dg
import pytest

from pervl_assets.core.errors import MissingInputError, WriteError
from pervl_assets.definitions import build_definitions
from pervl_assets.defs.failures import show_errors_of
from pervl_assets.io_managers.failures import make_failure, show_errors
from pervl_assets.testing.runs import make_settings

TEXT = "No zip.\n  where: here\nWhat to do: Get one."


def fail():
    raise MissingInputError("No zip.", details=["where: here"], advice="Get one.")


def read_errors(result):
    return {event.event_type_value: event.event_specific_data.error for event in result.all_events if event.is_failure}


def test_step_and_run_tell_the_message_first():
    @dg.asset
    def plain():
        fail()

    show_errors_of([plain])
    errors = read_errors(dg.materialize([plain], raise_on_error=False))
    failures = {"STEP_FAILURE", "PIPELINE_FAILURE"}
    assert set(errors) == failures
    assert {errors[kind].message for kind in failures} == {f"MissingInputError: {TEXT}\n"}
    assert "in fail" in "".join(errors["STEP_FAILURE"].cause.stack)  # where it was raised is still told


def test_generators_checks_and_graphs_tell_it_too():
    @dg.asset(check_specs=[dg.AssetCheckSpec("fine", asset="stream")])
    def stream():
        yield dg.AssetCheckResult(check_name="fine", passed=True)
        fail()

    @dg.op
    def inner():
        fail()

    @dg.graph_asset
    def whole():
        return inner()

    @dg.asset_check(asset="other")
    def check():
        fail()

    @dg.asset
    def other():
        pass

    every = [stream, whole, check, other]
    show_errors_of(every)
    show_errors_of(every)  # once is enough, and twice does no harm
    result = dg.materialize(every, raise_on_error=False)
    failed = {event.step_key: event.step_failure_data.error for event in result.all_events if event.is_step_failure}
    assert set(failed) == {"stream", "whole.inner", "other_check"}
    assert {error.message for error in failed.values()} == {f"MissingInputError: {TEXT}\n"}
    assert all(error.cause.cls_name == "MissingInputError" and error.cause.cause is None for error in failed.values())


def test_other_errors_pass_as_they_are():
    with pytest.raises(ZeroDivisionError), show_errors():
        raise ZeroDivisionError


def test_numbers_can_stand_beside_the_message():
    failure = make_failure(WriteError("Full.", advice="Make room."), errors=3)
    assert isinstance(failure, dg.Failure)
    assert (failure.description, failure.metadata["errors"].value) == ("Full.\nWhat to do: Make room.", 3)


def test_every_asset_and_check_of_the_project_shows_its_errors(tmp_path):
    defs = build_definitions(make_settings(tmp_path))
    ops = [op for one in [*defs.assets, *defs.asset_checks] for op in one.node_def.iterate_op_defs()]
    bodies = [op.compute_fn.decorated_fn for op in ops]
    assert len(bodies) > 40
    assert all(hasattr(body, "_shows_errors") for body in bodies)


def test_a_missing_archive_is_told_so_and_a_missing_value_too(materialize, tmp_path):
    (tmp_path / "data").mkdir()
    for selection, partition, words in (
        ('key:"raw/youtube_vos_train"', None, "MissingInputError: YouTube-VOS"),
        ('key:"deep_fashion/personalized"', "test", "MissingInputError: The value of "),
    ):
        result = materialize(selection, partition, data=tmp_path / "data", profile="full")
        assert {error.message[: len(words)] for error in read_errors(result).values()} == {words}
