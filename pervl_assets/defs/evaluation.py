"""The scores: places and scores of all methods, by benchmark and split, and the results beside published numbers."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg
import polars as pl

from pervl_assets.benchmarks import find_searched
from pervl_assets.benchmarks.benchmark import FEW_SHOT_FOLDER, GALLERY_FOLDER, TreeAsset
from pervl_assets.clip.features import Features
from pervl_assets.core.checks import CheckResult
from pervl_assets.core.errors import name_some
from pervl_assets.core.tables import TableSchema
from pervl_assets.defs.checks import to_check_result
from pervl_assets.defs.evaluation_features import build_evaluation_features
from pervl_assets.defs.evaluation_tables import EVALUATION
from pervl_assets.defs.features import name_key
from pervl_assets.defs.metadata import OWNERS, embed_image, make_check_result
from pervl_assets.defs.resources import Workspace
from pervl_assets.defs.steps import record_step
from pervl_assets.evaluation.examples import choose_examples
from pervl_assets.evaluation.known_scores import Conditions, check_known_scores
from pervl_assets.evaluation.methods import Ranked, rank_baselines, score_baselines
from pervl_assets.evaluation.metrics import RANKS, SCORES
from pervl_assets.evaluation.pictures import draw_examples
from pervl_assets.evaluation.published import read_published
from pervl_assets.evaluation.results import RESULTS, show_results, show_scores, tabulate_results
from pervl_assets.io_managers.features import FeaturesIOManager
from pervl_assets.io_managers.metadata import preview_table
from pervl_assets.io_managers.tables import COLUMN_LINEAGE, TableIOManager, declare_columns
from pervl_assets.io_managers.trees import TreeIOManager

RESULTS_NAME: Final = "results"

_IMAGES: Final = "image_features"
_ALL_RANKED: Final = "every_query_is_ranked"
_KNOWN_SCORES: Final = "known_scores"
_WHOLE: Final = "nothing_is_left_out"
_SHOWN: Final = 100

_OF_QUERIES: Final = ("protocol", "query_set", "query_id", "query", "concept")
_COUNTED: Final = {
    "target": ("queries.targets",),
    "queries": ("queries.query_id",),
    "concepts": ("queries.concept",),
    "gallery": (f"{_IMAGES}.id",),
}

_ALL_RANKED_TEXT: Final = (
    "Every query has its right image in the gallery, and few-shot images or a token of its concept. A warning: queries "
    "that have not are left out, so scores cannot be compared with published ones."
)
_KNOWN_TEXT: Final = (
    "Under OpenAI's ViT-B/32 (known by the sha256 of its weights) on as many images as the official ones, the MRR of "
    "Text only is the published one to 0.05 points. A warning. Elsewhere not applicable."
)


@dataclass(frozen=True)
class _Kind:
    """Methods that are ranked together.

    Attributes:
        name: First part of the names of both assets.
        methods: Their names, for the descriptions.
        inputs: Assets below the benchmark that they need, by the parameter of `rank`; features are of the encoder.
        rank: Ranks the gallery, from the inputs.
        score: Scores ranks, from the inputs.
        seed: Column that a seed is from, `<asset>.<column>`.
        measured: Columns that places, and so the scores, are computed from.
    """

    name: str
    methods: str
    inputs: Mapping[str, str]
    rank: Callable[..., Ranked]
    score: Callable[[Mapping[str, Any], pl.DataFrame], pl.DataFrame]
    seed: str
    measured: tuple[str, ...]

    def trace(self, column: str) -> tuple[str, ...]:
        """Return the columns that a column of the ranks or scores is made from."""
        if column in _OF_QUERIES:
            return (f"queries.{column}",)
        known = {**_COUNTED, "seed": (self.seed,), "method": (), "seeds": ()}
        return known.get(column, self.measured)


_KINDS: Final = (
    _Kind(
        "baseline",
        "Text only, AvgIm and AvgIm+Text, which need no training",
        {"queries": "queries", "draws": "few_shot_draws", "texts": "query_features", "images": _IMAGES},
        rank_baselines,
        lambda inputs, ranks: score_baselines(inputs["queries"], ranks, inputs["images"]),
        "few_shot_draws.seed",
        ("queries.targets", "few_shot_draws.image", "query_features.vector", f"{_IMAGES}.vector"),
    ),
)
_OF_AN_ENCODER: Final = ("query_features", _IMAGES)


def build_evaluation_assets(encoder: str | None = None) -> list[dg.AssetsDefinition]:
    """Return the features, ranks and scores of every benchmark that is searched, and the results of all.

    Args:
        encoder: Name of a further encoder; None: the default one.
    """
    scored = [
        _build_scores(benchmark.name, tree, kind, encoder) for benchmark, _, tree in find_searched() for kind in _KINDS
    ]
    return [*build_evaluation_features(encoder), *scored, _build_results(encoder)]


def _build_scores(benchmark: str, tree: TreeAsset, kind: _Kind, encoder: str | None) -> dg.AssetsDefinition:
    """Return the ranks and scores of a benchmark's methods: one step per split, which takes a second."""
    ranks_key, scores_key = (
        name_key(f"{benchmark}/{kind.name}_{what}", encoder, EVALUATION) for what in ("ranks", "scores")
    )
    known = kind.name == "baseline"

    def find_column(source: str) -> dg.TableColumnDep:
        asset, _, column = source.partition(".")
        return dg.TableColumnDep(_locate_input(benchmark, asset, encoder), column)

    def declare(key: dg.AssetKey, schema: TableSchema, text: str) -> dg.AssetOut:
        return dg.AssetOut(
            key=key,
            group_name=EVALUATION,
            io_manager_key=TableIOManager.key,
            description=text + (f" With the encoder {encoder}." if encoder else ""),
            kinds={"numpy", "parquet"},
            owners=OWNERS,
            code_version="1",
            metadata=_declare_columns(schema, {name: map(find_column, kind.trace(name)) for name in schema.names}),
        )

    @dg.multi_asset(
        name="__".join(scores_key.path).replace("-", "_"),
        ins={name: dg.AssetIn(_locate_input(benchmark, asset, encoder)) for name, asset in kind.inputs.items()},
        outs={
            "ranks": declare(
                ranks_key, RANKS, f"The place of the right image of every query of the split, by {kind.methods}."
            ),
            "scores": declare(
                scores_key,
                SCORES,
                f"Scores of the split by protocol, set of queries and method: {kind.methods}. A row per seed, and one "
                "with the mean. Ties are placed pessimistically." + (" Random is the expected score." if known else ""),
            ),
        },
        partitions_def=dg.StaticPartitionsDefinition(list(tree.splits)),
        check_specs=[
            dg.AssetCheckSpec(_ALL_RANKED, asset=ranks_key, description=_ALL_RANKED_TEXT),
            *([dg.AssetCheckSpec(_KNOWN_SCORES, asset=scores_key, description=_KNOWN_TEXT)] if known else []),
        ],
    )
    @record_step(uses=("profile",))
    def score_methods(
        context: dg.AssetExecutionContext, workspace: Workspace, **inputs: Any
    ) -> Iterator[dg.MaterializeResult[pl.DataFrame]]:
        ranked = kind.rank(**inputs)
        lost = to_check_result(_ALL_RANKED, _check_lost(ranked, inputs["queries"]), "warning")
        key, split = dg.AssetKey([benchmark, tree.name]), context.partition_key
        picture = _draw_queries(workspace, key, split, ranked.ranks, inputs["queries"])
        yield TableIOManager.describe(
            ranked.ranks, asset_key=ranks_key, checks=[lost._replace(asset_key=ranks_key)], **picture
        )
        scores, checks = kind.score(inputs, ranked.ranks), []
        if known:
            conditions = _describe_conditions(workspace, benchmark, tree, split, inputs["images"])
            found = check_known_scores(scores, read_published(), conditions)
            checks = [to_check_result(_KNOWN_SCORES, found, "warning")._replace(asset_key=scores_key)]
        shown = preview_table(show_scores(scores), rows=_SHOWN)
        yield TableIOManager.describe(scores, asset_key=scores_key, checks=checks, scores=shown)

    return score_methods


def _declare_columns(schema: TableSchema, made_from: Mapping[str, Iterable[dg.TableColumnDep]]) -> dict[str, Any]:
    """Return the asset metadata that declares columns, with the columns of other assets that each is made from."""
    lineage = {name: found for name, sources in made_from.items() if (found := [*sources])}
    return {**declare_columns(schema), COLUMN_LINEAGE: dg.TableColumnLineage(lineage)}


def _draw_queries(
    workspace: Workspace, tree: dg.AssetKey, split: str, ranks: pl.DataFrame, queries: pl.DataFrame
) -> dict[str, Any]:
    """Return a picture of the best and the worst queries, as metadata; nothing if no query has a place."""
    draws = TableIOManager(data=workspace.data).read(dg.AssetKey([EVALUATION, tree.path[0], "few_shot_draws"]), split)
    if examples := choose_examples(ranks, queries, draws):
        drawn = draw_examples(TreeIOManager(data=workspace.data).read(tree, split), examples)
        return {"queries": embed_image(drawn, f"{tree.path[0]}: the best and the worst queries")}
    return {}


def _locate_input(benchmark: str, asset: str, encoder: str | None) -> dg.AssetKey:
    return name_key(f"{benchmark}/{asset}", encoder if asset in _OF_AN_ENCODER else None, EVALUATION)


def _check_lost(ranked: Ranked, queries: pl.DataFrame) -> CheckResult:
    """Return whether every query has a place under every method and seed."""
    lost = ranked.lost.join(queries.select("query_id", "concept"), "query_id", "left", maintain_order="left")
    concepts = lost["concept"].unique().sort().to_list()
    counted = dict(lost.group_by("reason").len().sort("reason").iter_rows())
    text = f"all {ranked.ranks['query_id'].n_unique():,} queries have a place"
    if counted:
        text = f"{lost['query_id'].n_unique():,} queries are left out, of the concepts {name_some(concepts)}: "
        text += "; ".join(f"of {number:,}, {reason}" for reason, number in counted.items())
    return CheckResult(not counted, text, {"left out": lost["query_id"].n_unique()}, lost)


def _describe_conditions(
    workspace: Workspace, benchmark: str, tree: TreeAsset, split: str, images: Features, **more: Any
) -> Conditions:
    """Return what scores of a split depend on. `more` is what is known of the training."""
    official, what = tree.facts.get(split, {}), ("few-shot images", "gallery images")
    roles = ((tree.sheet.few_shot,), tree.sheet.evaluation)
    return Conditions(
        benchmark=benchmark,
        split=split,
        synthetic=workspace.profile == "demo",
        weights_sha256=images.passport.weights_sha256,
        counts={
            name: sum(one.startswith(f"{folder}/") for one in images.ids)
            for name, folder in zip(what, (FEW_SHOT_FOLDER, GALLERY_FOLDER), strict=True)
        },
        official={name: sum(official[one] for one in ones) for name, ones in zip(what, roles, strict=True)}
        if official
        else {},
        **more,
    )


def _trace_result(column: str, located: Mapping[tuple[str, str], dg.AssetKey]) -> Iterator[dg.TableColumnDep]:
    """Return the columns that a column of the results is made from: of all benchmarks and kinds of methods."""
    name = {"comparable": "id", "why": "id"}.get(column, "place" if column.startswith("difference") else column)
    schemas = {"scores": SCORES.names, "ranks": ["place"], "features": ["id"]}
    for (_, asset), key in located.items():
        if name in schemas[asset.rpartition("_")[2]]:
            yield dg.TableColumnDep(key, name)


def _build_results(encoder: str | None) -> dg.AssetsDefinition:
    """Return the asset of the results of all benchmarks and splits that have scores."""
    key = name_key(RESULTS_NAME, encoder, EVALUATION)
    splits = [(benchmark.name, tree, split) for benchmark, _, tree in find_searched() for split in tree.splits]
    names = [_IMAGES, *(f"{kind.name}_{what}" for kind in _KINDS for what in ("ranks", "scores"))]
    locate = {
        (benchmark.name, name): name_key(f"{benchmark.name}/{name}", encoder, EVALUATION)
        for benchmark, *_ in find_searched()
        for name in names
    }

    @dg.asset(
        key=key,
        group_name=EVALUATION,
        deps=[*locate.values()],
        io_manager_key=TableIOManager.key,
        description="Scores of all methods, benchmarks and splits, each with the published number beside it, whether "
        "the two are comparable and why, and the paired difference from Text only. What is not materialized is left "
        "out, so it can be made from the baselines alone." + (f" With the encoder {encoder}." if encoder else ""),
        kinds={"polars", "parquet"},
        owners=OWNERS,
        code_version="1",
        metadata=_declare_columns(RESULTS, {name: _trace_result(name, locate) for name in RESULTS.names}),
        check_specs=[
            dg.AssetCheckSpec(
                _WHOLE, asset=key, description="All scores of every benchmark and split are materialized. A warning."
            )
        ],
    )
    @record_step(uses=("profile",))
    def results(workspace: Workspace) -> Iterator[dg.MaterializeResult[pl.DataFrame]]:
        tables, features = TableIOManager(data=workspace.data), FeaturesIOManager(data=workspace.data)
        made, absent = [RESULTS.to_polars().to_frame()], []
        for benchmark, tree, split in splits:
            frames = {}
            for what in ("scores", "ranks"):
                found = {
                    kind.name: tables.read_previous(locate[benchmark, f"{kind.name}_{what}"], split) for kind in _KINDS
                }
                frames[what] = [frame for frame in found.values() if frame is not None]
                absent += [f"{benchmark}/{name}_{what} [{split}]" for name, frame in found.items() if frame is None]
            images = features.read_previous(locate[benchmark, _IMAGES], split)
            if images is not None and all(frames.values()):
                conditions = _describe_conditions(workspace, benchmark, tree, split, images)
                scores, ranks = (pl.concat(frames[what]) for what in ("scores", "ranks"))
                made.append(tabulate_results(scores, ranks, read_published(), conditions, images.passport.model))
        frame = pl.concat(made)
        shown: dict[str, Any] = {
            f"results_{split}": preview_table(show_results(part), rows=_SHOWN)
            for (split,), part in frame.group_by("split", maintain_order=True)
        }
        text = (
            f"{len(absent):,} tables are not materialized and left out: {name_some(absent)}"
            if absent
            else "all are there"
        )
        whole = make_check_result(_WHOLE, not absent, text, absent=len(absent))
        yield TableIOManager.describe(frame, checks=[whole], **shown)

    return results
