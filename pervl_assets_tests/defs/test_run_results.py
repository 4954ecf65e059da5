import dataclasses

import dagster as dg
import pytest

from pervl_assets.core.errors import MissingInputError
from pervl_assets.defs.run_results import Finding, explain_failure, name_partition, read_run_result


@dataclasses.dataclass
class Info:
    cls_name: str
    message: str
    cause: "Info | None" = None


def test_failures_are_told_without_wrapping():
    own = Info("MissingInputError", "pervl_assets.core.errors.MissingInputError: no zip: none\n", Info("OSError", "x"))
    assert explain_failure(Info("DagsterExecutionStepExecutionError", "dagster...: wrapped", own)) == "no zip: none"
    assert explain_failure(Info("Outer", "o", Info("ValueError", "ValueError: bad\n"))) == "ValueError: bad"
    assert explain_failure(Info("DagsterAssetCheckFailedError", "dagster...: check failed")) is None


def test_what_a_run_made_and_found_is_read_back(instance):
    @dg.asset
    def made():
        return dg.MaterializeResult(metadata={"files": 1234, "bytes": 5, "quarantined": 2, "missing": 1})

    @dg.asset
    def failing():
        raise MissingInputError("It is missing.", details=["where: here"], advice="Put it there.") from OSError("no")

    @dg.asset_check(asset=made)
    def grave():
        return dg.AssetCheckResult(passed=False, description="2 of 3 are wrong")

    @dg.asset_check(asset=made)
    def slight():
        return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN)

    run = dg.materialize([made, failing, grave, slight], instance=instance, raise_on_error=False)
    outcome = read_run_result(instance, run.run_id)
    assert (outcome.succeeded, outcome.passed, outcome.interrupted) == (False, False, False)
    (one,) = outcome.made
    assert (one.name, one.files_or_rows, one.bytes, one.quarantined, one.missing) == ("made", 1234, 5, 2, 1)
    text = "It is missing.\n  where: here\nWhat to do: Put it there."
    assert {finding.text for finding in outcome.errors} == {text, "grave: 2 of 3 are wrong"}
    assert [finding for finding in outcome.findings if finding not in outcome.errors] == [
        Finding("made", "warning", "slight: did not pass")
    ]


def test_a_run_that_fails_outside_of_its_steps_says_why(instance):
    class Store(dg.ConfigurableResource):
        def setup_for_execution(self, context):
            raise MissingInputError("No store.", advice="Build one.")

    @dg.op
    def idle(store: Store):
        pass

    @dg.job(resource_defs={"store": Store()})
    def job():
        idle()

    run = job.execute_in_process(instance=instance, raise_on_error=False)
    outcome = read_run_result(instance, run.run_id)
    assert not outcome.succeeded
    assert [finding.text for finding in outcome.errors] == ["No store.\nWhat to do: Build one."]


@pytest.mark.parametrize(("partition", "name"), [(None, "a/b"), ("test", "a/b [test]")])
def test_names_of_partitions(partition, name):
    assert name_partition("a/b", partition) == name
