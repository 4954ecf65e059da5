"""Results of runs, read back from their events: what was made, what checks found, why a step failed."""

from dataclasses import dataclass, field, replace
from typing import Any, Final

import dagster as dg
from dagster import DagsterEventType, DagsterInstance
from rich.filesize import decimal

from pervl_assets.core.checks import Severity
from pervl_assets.core.errors import FailedCheckError
from pervl_assets.core.progress import format_seconds
from pervl_assets.core.text import count_of, unescape_markdown
from pervl_assets.dagster_private import RunFailureReason
from pervl_assets.io_managers.metadata import BYTES, FILES, MISSING, QUARANTINED, ROWS

_FAILED_CHECKS: Final = {FailedCheckError.__name__, "DagsterAssetCheckFailedError"}
"""Errors of steps whose blocking check failed; the check is reported itself."""


@dataclass(frozen=True)
class Materialized:
    """An asset, or one partition of it, that was materialized.

    Attributes:
        asset: Its key as text.
        partition: Its partition, if it has any.
        metadata: Metadata of the materialization.
        seconds: Time its step took, from its first attempt on; for a step that makes several partitions, the whole
            step's.
    """

    asset: str
    partition: str | None
    metadata: dict[str, Any]
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """Its name with the partition: `ytvos/retrieval_set [test]`."""
        return name_partition(self.asset, self.partition)

    @property
    def files_or_rows(self) -> int | None:
        """Rows of a table, files of a tree or an archive; None if not recorded."""
        count = self.metadata.get(ROWS, self.metadata.get(FILES))
        return None if count is None else int(count)

    @property
    def count(self) -> str | None:
        """That number with its unit: `1,234 files`."""
        unit, number = "row" if ROWS in self.metadata else "file", self.files_or_rows
        return None if number is None else count_of(number, unit)

    @property
    def bytes(self) -> int | None:
        """Its size, None if not recorded."""
        return self.metadata.get(BYTES)

    @property
    def summary(self) -> str:
        """Its counts, its size if that is known, and its duration: `1,234 files, 12.3 MB, 4.2 s`."""
        size = None if self.bytes is None else decimal(int(self.bytes))
        lost = f"{self.quarantined:,} quarantined" if self.quarantined else None
        missing = f"{self.missing:,} missing" if self.missing else None
        return ", ".join(filter(None, (self.count, lost, missing, size, format_seconds(self.seconds))))

    @property
    def quarantined(self) -> int:
        """Number of outputs whose source is unusable."""
        return self.metadata.get(QUARANTINED) or 0

    @property
    def missing(self) -> int:
        """Number of outputs whose source is missing."""
        return self.metadata.get(MISSING) or 0


@dataclass(frozen=True)
class Finding:
    """An asset check that did not pass, a step that failed, or a run that failed outside of its steps.

    Attributes:
        asset: Key of the asset or step; the run's id where no step failed.
        severity: A warning keeps nothing from being made.
        text: What is wrong, where, how many, and what to do.
    """

    asset: str
    severity: Severity
    text: str


@dataclass
class RunResult:
    """The result of one run or of several.

    Attributes:
        made: What was materialized.
        findings: What failed, and the checks that did not pass.
        succeeded: Whether every run succeeded.
        interrupted: Whether a run was terminated, by a user or with its process.
        runs: Ids of planned runs.
        total: How many values were to be made.
        skipped: How many were up to date.
    """

    made: list[Materialized] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    succeeded: bool = True
    interrupted: bool = False
    runs: list[str] = field(default_factory=list)
    total: int = 0
    skipped: int = 0

    @property
    def left(self) -> int:
        """How many values were to be made and are not."""
        return self.total - len(self.made)

    @property
    def passed(self) -> bool:
        """Whether every asset materialized and every error-severity check passed."""
        return self.succeeded and not self.errors

    @property
    def errors(self) -> list[Finding]:
        """Failed steps, and checks of error severity that did not pass."""
        return [finding for finding in self.findings if finding.severity == "error"]

    def add(self, other: "RunResult") -> None:
        """Add the result of another run."""
        self.made += other.made
        self.findings += other.findings
        self.succeeded &= other.succeeded
        self.interrupted |= other.interrupted


def name_partition(asset: str, partition: str | None) -> str:
    """Return the name of an asset or of one partition of it: `ytvos/retrieval_set [test]`."""
    return f"{asset} [{partition}]" if partition else asset


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
        DagsterEventType.STEP_UP_FOR_RETRY,
        DagsterEventType.RUN_FAILURE,
        DagsterEventType.RUN_CANCELED,
        DagsterEventType.RUN_SUCCESS,
    }
    result = RunResult(succeeded=False)
    for record in instance.get_records_for_run(run_id, of_type=wanted).records:
        event = record.event_log_entry.get_dagster_event()
        result.succeeded |= event.event_type == DagsterEventType.RUN_SUCCESS
        result.interrupted |= event.event_type == DagsterEventType.RUN_CANCELED
        if event.event_type == DagsterEventType.ASSET_MATERIALIZATION:
            made = read_materialization(event)
            result.made.append(replace(made, seconds=seconds.get(event.step_key or "", 0.0)))
        elif (finding := read_finding(event)) is not None:
            result.findings.append(finding)
        elif event.event_type == DagsterEventType.RUN_FAILURE:
            failure: Any = event.event_specific_data  # None if another process reports the failure
            result.interrupted |= bool(failure) and failure.failure_reason == RunFailureReason.UNEXPECTED_TERMINATION
            if not result.errors:
                text = (explain_failure(failure.error) if failure and failure.error else None) or event.message
                result.findings.append(Finding(f"run {run_id}", "error", text or "It failed without a message."))
    # Dagster records the partitions of one step in no order; assets stay in the order of their steps.
    steps = list(dict.fromkeys(made.asset for made in result.made))
    result.made.sort(key=lambda made: (steps.index(made.asset), made.partition or ""))
    return result


def read_materialization(event: dg.DagsterEvent) -> Materialized:
    """Return what a materialization event records; seconds are 0, because those of its step are not known yet."""
    made = event.step_materialization_data.materialization
    metadata = {name: value.value for name, value in made.metadata.items()}
    return Materialized(made.asset_key.to_user_string(), made.partition, metadata)


def read_finding(event: dg.DagsterEvent) -> Finding | None:
    """Return the finding of a check that did not pass, or a step that failed or is tried again; None for others."""
    if event.event_type == DagsterEventType.ASSET_CHECK_EVALUATION:
        check = event.asset_check_evaluation_data
        if check.passed:
            return None
        severity: Severity = "error" if check.severity == dg.AssetCheckSeverity.ERROR else "warning"
        text = f"{check.check_name}: {unescape_markdown(check.description or 'did not pass')}"
        return Finding(check.asset_key.to_user_string(), severity, text)
    if event.event_type == DagsterEventType.STEP_UP_FOR_RETRY:
        message = explain_failure(event.step_retry_data.error)
        text = f"an attempt failed: {message}"
        return Finding((event.step_key or "").replace("__", "/"), "warning", text)
    if event.event_type == DagsterEventType.STEP_FAILURE:
        message = explain_failure(event.step_failure_data.error)
        return None if message is None else Finding((event.step_key or "").replace("__", "/"), "error", message)
    return None


def explain_failure(error: Any) -> str | None:
    """Return the message of a step's failure without a stack; the project's own error comes first.

    None for a failed blocking check, which is reported as the check itself.
    """
    while True:
        name, _, message = error.message.partition(": ")
        if name.rpartition(".")[2] in _FAILED_CHECKS:
            return None
        if name.startswith("pervl_assets."):
            return str(message).strip()
        if error.cause is None:
            break
        error = error.cause
    if error.cls_name in ("DagsterExecutionInterruptedError", "Interrupted"):
        return "interrupted"
    if error.cls_name == "ChildProcessCrashException":
        return "its process ended; the system may have run out of memory"
    return str(error.message).strip()
