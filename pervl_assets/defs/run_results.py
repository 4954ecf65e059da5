"""What came of a run: what it made, what its checks found, why a step failed.

Belongs here: reading a run's events back. Does not belong here: starting runs, which is `waves`, and printing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import dagster as dg
from dagster import DagsterEventType, DagsterInstance
from dagster._core.events import RunFailureReason  # not exported at Dagster's top

from pervl_assets.core.text import unescape_markdown
from pervl_assets.defs.metadata import BYTES, FILES, MISSING, QUARANTINED, ROWS

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Materialized:
    """An asset, or one partition of it, that was materialized.

    Attributes:
        asset: Its key as text.
        partition: Its partition, if it has any.
        seconds: Time its step took; for a step that makes several partitions, the whole step's.
        metadata: What the materialization tells.
    """

    asset: str
    partition: str | None
    seconds: float
    metadata: dict[str, Any]

    @property
    def name(self) -> str:
        """How it is written: `ytvos/retrieval_set [test]`."""
        return name_partition(self.asset, self.partition)

    @property
    def files_or_rows(self) -> int | None:
        """How large it is, if it tells."""
        return count_files_or_rows(self.metadata)

    @property
    def bytes(self) -> int:
        """Its size, if it tells."""
        return self.metadata.get(BYTES) or 0

    @property
    def quarantined(self) -> int:
        """How many of its parts have a source that is no good."""
        return self.metadata.get(QUARANTINED) or 0

    @property
    def missing(self) -> int:
        """How many of its parts have no source."""
        return self.metadata.get(MISSING) or 0


@dataclass(frozen=True)
class Finding:
    """An asset check that did not pass, a step that failed, or a run that failed outside of its steps.

    Attributes:
        asset: Key of the asset or step; the run's id where no step failed.
        severity: A warning does not keep anything from being made.
        text: What is wrong, where, how many, and what to do.
    """

    asset: str
    severity: Severity
    text: str


@dataclass
class RunResult:
    """What came of one wave or of all.

    Attributes:
        made: What was materialized.
        findings: What failed, and the checks that did not pass.
        succeeded: Whether every run went through.
        interrupted: Whether one was terminated, by a person or because its process was told to end.
    """

    made: list[Materialized] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    succeeded: bool = True
    interrupted: bool = False

    @property
    def passed(self) -> bool:
        """Whether every asset materialized and every error-severity check passed."""
        return self.succeeded and not self.errors

    @property
    def errors(self) -> list[Finding]:
        """Failed steps, and checks of error severity that did not pass."""
        return [finding for finding in self.findings if finding.severity == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """Checks that did not pass, and are no errors."""
        return [finding for finding in self.findings if finding.severity == "warning"]

    def add(self, other: "RunResult") -> None:
        """Take over what another wave gave."""
        self.made += other.made
        self.findings += other.findings
        self.succeeded &= other.succeeded
        self.interrupted |= other.interrupted


def name_partition(asset: str, partition: str | None) -> str:
    """Return how an asset, or one partition of it, is written: `ytvos/retrieval_set [test]`."""
    return f"{asset} [{partition}]" if partition else asset


def count_files_or_rows(metadata: Mapping[str, Any]) -> int | None:
    """Return how large a materialization says it is: rows of a table, files of a tree or an archive."""
    count = metadata.get(ROWS, metadata.get(FILES))
    return None if count is None else int(count)


def read_run_result(instance: DagsterInstance, run_id: str) -> RunResult:
    """Return what a finished run made and found."""
    seconds = {
        step.step_key: (step.end_time or 0.0) - (step.start_time or 0.0)
        for step in instance.get_run_step_stats(run_id)
        if step.start_time
    }
    wanted = {
        DagsterEventType.ASSET_MATERIALIZATION,
        DagsterEventType.ASSET_CHECK_EVALUATION,
        DagsterEventType.STEP_FAILURE,
        DagsterEventType.RUN_FAILURE,
        DagsterEventType.RUN_CANCELED,
        DagsterEventType.RUN_SUCCESS,
    }
    outcome = RunResult(succeeded=False)
    for record in instance.get_records_for_run(run_id, of_type=wanted).records:
        event = record.event_log_entry.get_dagster_event()
        outcome.succeeded |= event.event_type == DagsterEventType.RUN_SUCCESS
        outcome.interrupted |= _is_interruption(event)
        if event.event_type == DagsterEventType.ASSET_MATERIALIZATION:
            made = read_materialization(event)
            outcome.made.append(replace(made, seconds=seconds.get(event.step_key or "", 0.0)))
        elif (finding := read_finding(event)) is not None:
            outcome.findings.append(finding)
        elif event.event_type == DagsterEventType.RUN_FAILURE and not outcome.errors:
            outcome.findings.append(Finding(f"run {run_id}", "error", _explain_run_failure(event)))
    # Dagster tells the partitions of one step in no order; the assets themselves stay in that of their steps.
    steps = list(dict.fromkeys(made.asset for made in outcome.made))
    outcome.made.sort(key=lambda made: (steps.index(made.asset), made.partition or ""))
    return outcome


def read_materialization(event: dg.DagsterEvent) -> Materialized:
    """Return what a materialization tells; the seconds are those of its step, which are not known before its end."""
    made = event.step_materialization_data.materialization
    metadata = {name: value.value for name, value in made.metadata.items()}
    return Materialized(made.asset_key.to_user_string(), made.partition, 0.0, metadata)


def read_finding(event: dg.DagsterEvent) -> Finding | None:
    """Return what an event tells of a check that did not pass or a step that failed; None: it tells neither."""
    if event.event_type == DagsterEventType.ASSET_CHECK_EVALUATION:
        check = event.asset_check_evaluation_data
        if check.passed:
            return None
        severity: Severity = "error" if check.severity == dg.AssetCheckSeverity.ERROR else "warning"
        text = f"{check.check_name}: {unescape_markdown(check.description or 'did not pass')}"
        return Finding(check.asset_key.to_user_string(), severity, text)
    if event.event_type == DagsterEventType.STEP_FAILURE:
        message = explain_failure(event.step_failure_data.error)
        return None if message is None else Finding((event.step_key or "").replace("__", "/"), "error", message)
    return None


def _is_interruption(event: dg.DagsterEvent) -> bool:
    if event.event_type == DagsterEventType.RUN_FAILURE:
        return event.job_failure_data.failure_reason == RunFailureReason.UNEXPECTED_TERMINATION
    return event.event_type == DagsterEventType.RUN_CANCELED


def _explain_run_failure(event: dg.DagsterEvent) -> str:
    error = event.job_failure_data.error
    return (explain_failure(error) if error else None) or event.message or "It failed, and does not say why."


def explain_failure(error: Any) -> str | None:
    """Return what a person needs of a step's failure: our own error's message where there is one, without a stack.

    None for a failed blocking check, which is reported as the check itself.
    """
    while True:
        name, _, message = error.message.partition(": ")
        if name.startswith("pervl_assets."):
            return str(message).strip()
        if error.cause is None:
            break
        error = error.cause
    if error.cls_name == "DagsterExecutionInterruptedError":
        return "interrupted"
    return None if error.cls_name == "DagsterAssetCheckFailedError" else str(error.message).strip()
