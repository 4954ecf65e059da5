"""The results of the evaluation beside published numbers: one table of all benchmarks and splits."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final, TypeGuard

import dagster as dg
import polars as pl

from pervl_assets.benchmarks import find_searched
from pervl_assets.clip.features import Features
from pervl_assets.core.errors import SchemaError, name_some
from pervl_assets.core.text import count_of
from pervl_assets.defs.evaluation import (
    IMAGES,
    RESULTS_NAME,
    Kind,
    choose_kinds,
    declare_made_from,
    describe_conditions,
    hash_features,
    version_known,
)
from pervl_assets.defs.evaluation_tables import EVALUATION
from pervl_assets.defs.features import name_key
from pervl_assets.defs.metadata import OWNERS, make_check_result
from pervl_assets.defs.resources import Workspace
from pervl_assets.defs.steps import record_step
from pervl_assets.evaluation.metrics import SCORES
from pervl_assets.evaluation.published import read_published
from pervl_assets.evaluation.results import (
    RESULTS,
    list_unmeasured,
    show_published,
    show_results,
    tabulate_results,
)
from pervl_assets.io_managers.features import FeaturesIOManager
from pervl_assets.io_managers.metadata import preview_table
from pervl_assets.io_managers.tables import TableIOManager
from pervl_assets.training.concept_tokens import read_trainings

_WHOLE: Final = "nothing_is_left_out"
_SHOWN: Final = 100

_DESCRIPTION: Final = """\
The scores beside the published numbers. All methods, benchmarks and splits; each score with whether the two are
comparable and why, and the paired difference from Text only. What is not materialized, or was ranked by earlier
features, is left out, so the baselines are enough."""


def build_results(encoder: str | None = None, *, learns: bool = True) -> dg.AssetsDefinition:
    """Return the asset of the results of all benchmarks and splits that have scores.

    Args:
        encoder: Name of a further encoder; None: the default one.
        learns: See `choose_kinds`.
    """
    kinds = choose_kinds(learns=learns)
    key = name_key(RESULTS_NAME, encoder, EVALUATION)
    located = {
        (benchmark.name, name): name_key(f"{benchmark.name}/{name}", encoder, EVALUATION)
        for benchmark, *_ in find_searched()
        for name in (IMAGES, *(name for kind in kinds for name in (kind.inputs[kind.texts], *kind.tables)))
    }

    @dg.asset(
        key=key,
        group_name=EVALUATION,
        deps=[*located.values()],
        io_manager_key=TableIOManager.key,
        description=_DESCRIPTION + (f" With the encoder {encoder}." if encoder else ""),
        kinds={"parquet"},
        owners=OWNERS,
        code_version=version_known(),
        metadata=declare_made_from(RESULTS, {name: _trace_column(name, located) for name in RESULTS.names}),
        check_specs=[
            dg.AssetCheckSpec(
                _WHOLE, asset=key, description="All scores of every benchmark and split are materialized. A warning."
            )
        ],
    )
    @record_step(uses=("profile",))
    def results(workspace: Workspace) -> Iterator[dg.MaterializeResult[pl.DataFrame]]:
        frame, absent = _collect_results(workspace, kinds, located)
        shown: dict[str, Any] = {
            f"results_{split}": preview_table(show_results(part), rows=_SHOWN)
            for (split,), part in frame.group_by("split", maintain_order=True)
        }
        shown["published_only"] = preview_table(show_published(list_unmeasured(read_published(), frame)), rows=_SHOWN)
        text = (
            f"{count_of(len(absent), 'table')} left out, not materialized or of earlier features: {name_some(absent)}"
        )
        whole = make_check_result(_WHOLE, not absent, text if absent else "all are there", absent=len(absent))
        yield TableIOManager.describe(frame, checks=[whole], **shown)

    return results


def _trace_column(column: str, located: Mapping[tuple[str, str], dg.AssetKey]) -> Iterator[dg.TableColumnDep]:
    """Return the columns that a column of the results is made from: of all benchmarks and kinds of methods."""
    name = {"comparable": "id", "why": "id"}.get(column, "place" if column.startswith("difference") else column)
    columns = {"scores": SCORES.names, "ranks": ["place"], "features": ["id"]}
    for (_, asset), key in located.items():
        if name in columns[asset.rpartition("_")[2]]:
            yield dg.TableColumnDep(key, name)


def _collect_results(
    workspace: Workspace,
    kinds: Iterable[Kind],
    located: Mapping[tuple[str, str], dg.AssetKey],
) -> tuple[pl.DataFrame, list[str]]:
    """Return the results of all scores of the present features, and the names of the tables that are left out."""
    tables, features = TableIOManager(data=workspace.data), FeaturesIOManager(data=workspace.data)
    made, absent = [RESULTS.to_polars().to_frame()], list[str]()
    splits = [(benchmark.name, tree, split) for benchmark, _, tree in find_searched() for split in tree.splits]
    for benchmark, tree, split in splits:
        images = features.read_previous(located[benchmark, IMAGES], split)
        ranks, scores, trainings = list[pl.DataFrame](), list[pl.DataFrame](), list[dict[str, Any]]()
        for kind in kinds:
            texts = features.read_previous(located[benchmark, kind.inputs[kind.texts]], split)
            placed, scored = (tables.read_previous(located[benchmark, name], split) for name in kind.tables)
            if texts is None or images is None or placed is None or not _is_scored_from(scored, texts, images):
                absent += [f"{benchmark}/{name} [{split}]" for name in kind.tables]
                continue
            ranks.append(placed)
            scores.append(scored)
            trainings += _describe_trainings(texts.passport.tokens)
        if scores and images is not None:
            conditions = describe_conditions(workspace, benchmark, tree, split, images, trainings)
            whole, model = (pl.concat(scores), pl.concat(ranks)), images.passport.model
            made.append(tabulate_results(*whole, read_published(), conditions, model))
    return pl.concat(made), absent


def _is_scored_from(scores: pl.DataFrame | None, texts: Features, images: Features) -> TypeGuard[pl.DataFrame]:
    """Return whether scores are of these features: a run that was killed may have replaced the features only."""
    column = None if scores is None else scores.get_column("features", default=None)
    return column is not None and column.unique().to_list() == [hash_features(texts, images)]


def _describe_trainings(note: str) -> list[dict[str, Any]]:
    """Return how the inversion models of all seeds were trained, from the note in the passport of the texts."""
    try:
        return [asdict(training) for training in read_trainings(note)]
    except SchemaError:
        return []
