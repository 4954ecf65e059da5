import dataclasses

import dagster as dg

from pervl_assets.core.errors import MissingInputError
from pervl_assets.defs.run_results import Finding, explain_failure, read_run_result


@dataclasses.dataclass
class Info:
    cls_name: str
    message: str
    cause: "Info | None" = None


def test_failures_are_explained_without_wrapping():
    own = Info("MissingInputError", "pervl_assets.core.errors.MissingInputError: no zip: none\n", Info("OSError", "x"))
    assert explain_failure(Info("DagsterExecutionStepExecutionError", "dagster...: wrapped", own)) == "no zip: none"
    assert explain_failure(Info("Outer", "o", Info("ValueError", "ValueError: bad\n"))) == "ValueError: bad"
    assert explain_failure(Info("Interrupted", "Interrupted: it was ended")) == "interrupted"
    failed = Info("FailedCheckError", "pervl_assets.core.errors.FailedCheckError: 2 missing\n")
    assert explain_failure(Info("FailedCheckError", "FailedCheckError: 2 missing\n", failed)) is None
    theirs = "dagster._core.errors.DagsterAssetCheckFailedError: 1 blocking asset check failed\n"
    assert explain_failure(Info("DagsterAssetCheckFailedError", theirs)) is None


def test_materializations_and_findings_are_read_back(instance):
    @dg.asset
    def made():
        return dg.MaterializeResult(metadata={"files": 1234, "bytes": 5, "quarantined": 2, "missing": 1})

    @dg.asset
    def failing():
        raise MissingInputError("It is missing.", details=["where: here"], advice="Put it there.") from OSError("no")

    @dg.asset_check(asset=made)
    def heavy():
        return dg.AssetCheckResult(passed=False, description="2 of 3 are wrong")

    @dg.asset_check(asset=made)
    def light():
        return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN)

    run = dg.materialize([made, failing, heavy, light], instance=instance, raise_on_error=False)
    result = read_run_result(instance, run.run_id)
    assert (result.succeeded, result.passed, result.interrupted) == (False, False, False)
    (one,) = result.made
    assert (one.name, one.files_or_rows, one.bytes, one.quarantined, one.missing) == ("made", 1234, 5, 2, 1)
    text = "It is missing.\n  where: here\nWhat to do: Put it there."
    assert {finding.text for finding in result.errors} == {text, "heavy: 2 of 3 are wrong"}
    assert Finding("made", "warning", "light: did not pass") in result.findings


def test_a_run_that_fails_outside_of_its_steps_is_explained(instance):
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
    result = read_run_result(instance, run.run_id)
    assert not result.succeeded
    assert [finding.text for finding in result.errors] == ["No store.\nWhat to do: Build one."]
