"""How a drift is told: as metadata of the materialization that found it, and as an asset check.

Belongs here: showing a `Drift`, and what a check says within a run that materialized the features. Does not belong
here: measuring and judging a drift (`pervl_assets.clip.drift`), and loading what is probed (`feature_checks`).
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import dagster as dg
import polars as pl

from pervl_assets.clip.drift import Drift, check_drift, merge_drifts
from pervl_assets.defs.metadata import make_check_result, preview_table

DRIFT_PROBE: Final = "drift_probe"
DRIFT: Final = "drift"
REWRITTEN: Final = "rewritten"
"""Metadata of a materialization or check: whether other vectors were stored than those that were there."""

_HISTORY: Final = 20
_ALONE: Final = "Run this check by itself to encode a sample of what is stored again"

Encoder = TypeVar("Encoder")


class ProbingLoader:
    """Loads an encoder, and probes the stored vectors before it encodes anything that takes their place.

    So a probe costs one batch more where a model is loaded anyway, and nothing where none is.

    Attributes:
        drift: What the probe found; None where no model was loaded, or nothing was stored before.
    """

    def __init__(self) -> None:
        self.drift: Drift | None = None

    def wrap(self, load: Callable[[], Encoder], probe: Callable[[Encoder], Drift] | None) -> Callable[[], Encoder]:
        """Return a function that loads the encoder and probes with it; `probe` is None where nothing is stored."""

        def load_and_probe() -> Encoder:
            encoder = load()
            self.drift = probe(encoder) if probe else None
            return encoder

        return load_and_probe


def describe_drift(drift: Drift | None, *, rewritten: bool) -> dict[str, Any]:
    """Return what a materialization tells of the vectors that were stored before it."""
    return {REWRITTEN: rewritten, **(_list_numbers(drift) if drift else {})}


def _list_numbers(drift: Drift) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        "probed": drift.compared,
        "largest_difference": drift.largest_difference,
        "largest_relative_difference": drift.largest_relative_difference,
        "smallest_cosine": drift.smallest_cosine,
        DRIFT: dg.MetadataValue.json(drift.to_json()),
    }
    if drift.changed_nearest_classes is not None:
        numbers["changed_nearest_classes"] = drift.changed_nearest_classes
    return numbers


def report_drift(drift: Drift, before: str = "", *, replaced: bool = False) -> dg.AssetCheckResult:
    """Return a drift as the result of the check; `before` stands before its text, `replaced` is `check_drift`'s."""
    verdict = check_drift(drift, replaced=replaced)
    return make_check_result(
        None,
        verdict.passed,
        before + verdict.text,
        is_error=verdict.is_error,
        sample=drift.sample,
        worst=preview_table(pl.DataFrame(list(drift.worst), infer_schema_length=None)),
        **describe_drift(drift, rewritten=replaced),
    )


def review_run(context: dg.AssetCheckExecutionContext, key: dg.AssetKey) -> dg.AssetCheckResult | None:
    """Return what the check says in a run that materialized the features; None in any other, which must probe itself.

    Such a run has probed by itself wherever it loaded the model. Where it did not, no vector has changed, and the last
    finding under the same passport stands: an unchanged run stays cheap and hides nothing.
    """
    records = context.instance.get_records_for_run(
        context.run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION
    ).records
    events = [record.event_log_entry.get_dagster_event() for record in records]
    made = [event.step_materialization_data.materialization for event in events if event.asset_key == key]
    if not made:
        return None
    drifts = [drift for one in made if (drift := _read_drift(one.metadata))]
    if drifts:
        return report_drift(merge_drifts(drifts), replaced=all(drift.passport_differences for drift in drifts))
    if any(one.metadata[REWRITTEN].value for one in made):
        text = f"No vector was stored before that could have moved. {_ALONE}"
        return make_check_result(None, passed=True, text=text, **{REWRITTEN: True})
    last = _find_last(context.instance, dg.AssetCheckKey(key, DRIFT_PROBE))
    if last is not None:
        return report_drift(last, "Nothing was encoded in this run; the last probe holds: ")
    return make_check_result(None, passed=True, text=f"Nothing was encoded in this run. {_ALONE}", probed=0)


def _find_last(instance: dg.DagsterInstance, check: dg.AssetCheckKey) -> Drift | None:
    """Return the last drift of the vectors that are stored now, by an encoder of their own passport; None: unknown."""
    # What the UI asks, too: Dagster exports no other way to a check's history.
    for record in instance.event_log_storage.get_asset_check_execution_history(check, limit=_HISTORY):
        found = record.evaluation
        if not isinstance(found, dg.AssetCheckEvaluation):
            continue  # planned, as this very one is
        drift = _read_drift(found.metadata)
        if drift is not None and not drift.passport_differences:
            return drift
        if REWRITTEN in found.metadata and found.metadata[REWRITTEN].value:
            return None  # what was found before is of other vectors
    return None


def _read_drift(metadata: Mapping[str, Any]) -> Drift | None:
    return Drift.from_json(metadata[DRIFT].value) if DRIFT in metadata else None
