"""Places of the right images, and scores, of all methods, by benchmark and split."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import dagster as dg
import polars as pl

from pervl_assets.archives.inputs import locate_local
from pervl_assets.archives.official_files import compare_folder, load_manifest
from pervl_assets.benchmarks import find_searched
from pervl_assets.benchmarks.benchmark import FEW_SHOT_FOLDER, GALLERY_FOLDER, TreeAsset
from pervl_assets.clip.features import Features
from pervl_assets.core.checks import CheckResult
from pervl_assets.core.errors import name_some
from pervl_assets.core.files import hash_bytes
from pervl_assets.core.tables import Column, TableSchema
from pervl_assets.core.text import count_of
from pervl_assets.defs.checks import to_check_result
from pervl_assets.defs.evaluation_features import build_evaluation_features
from pervl_assets.defs.evaluation_tables import EVALUATION
from pervl_assets.defs.features import name_key
from pervl_assets.defs.metadata import OWNERS, embed_image
from pervl_assets.defs.raw import find_annotations
from pervl_assets.defs.resources import ANNOTATIONS, Workspace
from pervl_assets.defs.steps import record_step
from pervl_assets.evaluation.examples import choose_examples
from pervl_assets.evaluation.known_scores import FEW_SHOT_IMAGES, WEIGHTS, Conditions, check_known_scores
from pervl_assets.evaluation.methods import Ranked, rank_baselines, rank_concepts, score_baselines
from pervl_assets.evaluation.metrics import RANKS, SCORES, compute_scores
from pervl_assets.evaluation.pictures import draw_examples
from pervl_assets.evaluation.published import hash_published, read_published
from pervl_assets.evaluation.results import list_plotted, show_scores
from pervl_assets.io_managers.metadata import preview_table
from pervl_assets.io_managers.tables import COLUMN_LINEAGE, TableIOManager, declare_columns
from pervl_assets.io_managers.trees import TreeIOManager

IMAGES: Final = "image_features"
RESULTS_NAME: Final = "results"
_ALL_RANKED: Final = "every_query_is_ranked"
_KNOWN_SCORES: Final = "known_scores"
_SHOWN: Final = 100

_STORED_SCORES: Final = TableSchema(
    (*SCORES, Column("features", pl.String, "hash of the features that were ranked, see `hash_features`"))
)

_OF_QUERIES: Final = ("protocol", "query_set", "query_id", "query", "concept")
_COUNTED: Final = {
    "target": ("queries.targets",),
    "queries": ("queries.query_id",),
    "concepts": ("queries.concept",),
    "gallery": (f"{IMAGES}.id",),
}

_ALL_RANKED_TEXT: Final = (
    "Every query has its right image in the gallery, and few-shot images or a token of its concept. A warning: queries "
    "that have not are left out, so scores cannot be compared with published ones."
)
_KNOWN_TEXT: Final = (
    "Under OpenAI's ViT-B/32 (known by the sha256 of its weights), with the official annotations and as many queries "
    "and images as officially, the MRR of Text only is the published one to 0.05 points. A warning. Elsewhere not "
    "applicable."
)


@dataclass(frozen=True)
class Kind:
    """Methods that are ranked together.

    Attributes:
        name: First part of the names of both assets.
        methods: Their names, for the descriptions.
        inputs: Assets below the benchmark that they need, by the parameter of `rank`; features are of the encoder.
        texts: The parameter that gets the features of the queries.
        rank: Ranks the gallery, from the inputs.
        score: Scores ranks, from the inputs.
        seed: Column that a seed is from, `<asset>.<column>`.
        measured: Columns that places, and so the scores, are computed from.
    """

    name: str
    methods: str
    inputs: Mapping[str, str]
    texts: str
    rank: Callable[..., Ranked]
    score: Callable[[Mapping[str, Any], pl.DataFrame], pl.DataFrame]
    seed: str
    measured: tuple[str, ...]

    @property
    def tables(self) -> tuple[str, str]:
        """Names of the assets of its ranks and scores."""
        return f"{self.name}_ranks", f"{self.name}_scores"

    def trace(self, column: str) -> tuple[str, ...]:
        """Return the columns that a column of the ranks or scores is made from."""
        if column in _OF_QUERIES:
            return (f"queries.{column}",)
        known = {**_COUNTED, "seed": (self.seed,), "method": (), "seeds": ()}
        return known.get(column, self.measured)


_KINDS: Final = (
    Kind(
        "baseline",
        "Text only, AvgIm and AvgIm+Text, which need no training",
        {"queries": "queries", "draws": "few_shot_draws", "texts": "query_features", "images": IMAGES},
        "texts",
        rank_baselines,
        lambda inputs, ranks: score_baselines(inputs["queries"], ranks, inputs["images"]),
        "few_shot_draws.seed",
        ("queries.targets", "few_shot_draws.image", "query_features.vector", f"{IMAGES}.vector"),
    ),
    Kind(
        "concept",
        "PALAVRA, Only tuning and Without tuning, by the token of each concept",
        {"queries": "queries", "concepts": "concept_query_features", "images": IMAGES},
        "concepts",
        rank_concepts,
        lambda inputs, ranks: compute_scores(ranks),
        "concept_query_features.id",
        ("queries.targets", "concept_query_features.vector", f"{IMAGES}.vector"),
    ),
)
_OF_AN_ENCODER: Final = ("query_features", "concept_query_features", IMAGES)


def choose_kinds(*, learns: bool) -> tuple[Kind, ...]:
    """Return the kinds of methods of an encoder; `learns` says whether concepts can be learned with it."""
    return _KINDS if learns else _KINDS[:1]


def build_evaluation_assets(encoder: str | None = None, *, learns: bool = True) -> list[dg.AssetsDefinition]:
    """Return the features, ranks and scores of every benchmark that is searched.

    Args:
        encoder: Name of a further encoder; None: the default one.
        learns: See `choose_kinds`.
    """
    kinds = choose_kinds(learns=learns)
    scored = [
        _build_scores(benchmark.name, tree, kind, encoder) for benchmark, _, tree in find_searched() for kind in kinds
    ]
    return [*build_evaluation_features(encoder), *scored]


def _build_scores(benchmark: str, tree: TreeAsset, kind: Kind, encoder: str | None) -> dg.AssetsDefinition:
    """Return the ranks and scores of a benchmark's methods: one step per split, which takes a second."""
    ranks_key, scores_key = (name_key(f"{benchmark}/{name}", encoder, EVALUATION) for name in kind.tables)
    known = kind.name == "baseline"
    ranks_text = f"The place of every query's right image. Methods: {kind.methods}."
    scores_text = (
        f"Scores of the split by method: {kind.methods}; by protocol and set of queries. A row per seed, and one with "
        f"the mean. Ties are placed pessimistically.{' Random is the expected score.' if known else ''}"
    )

    @dg.multi_asset(
        name="__".join(scores_key.path).replace("-", "_"),
        ins={name: dg.AssetIn(_locate_input(benchmark, asset, encoder)) for name, asset in kind.inputs.items()},
        outs={
            "ranks": _declare_output(ranks_key, RANKS, ranks_text, benchmark, kind, encoder),
            "scores": _declare_output(
                scores_key, _STORED_SCORES, scores_text, benchmark, kind, encoder, version_known() if known else "2"
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
            conditions = describe_conditions(workspace, benchmark, tree, split, inputs["images"])
            found = check_known_scores(scores, read_published(), conditions)
            checks = [to_check_result(_KNOWN_SCORES, found, "warning")._replace(asset_key=scores_key)]
        shown = preview_table(show_scores(scores), rows=_SHOWN)
        plotted: dict[str, Any] = list_plotted(scores)
        ranked_of = hash_features(inputs[kind.texts], inputs["images"])
        scores = scores.with_columns(features=pl.lit(ranked_of))
        yield TableIOManager.describe(scores, asset_key=scores_key, checks=checks, scores=shown, **plotted)

    return score_methods


def version_known() -> str:
    """Return a code version that changes with the published numbers, and the weights they are of."""
    return f"2.{hash_bytes(repr((hash_published(), WEIGHTS)).encode())[:8]}"


def hash_features(texts: Features, images: Features) -> str:
    """Return a hash of the features that were ranked, by which the results know scores of earlier ones."""
    return hash_bytes(f"{texts.hash()} {images.hash()}".encode())[:16]


def _declare_output(
    key: dg.AssetKey,
    schema: TableSchema,
    text: str,
    benchmark: str,
    kind: Kind,
    encoder: str | None,
    code_version: str = "1",
) -> dg.AssetOut:
    """Return the output of a step of `_build_scores` that is a table."""
    keys = {name: _locate_input(benchmark, name, encoder) for name in kind.inputs.values()}
    return dg.AssetOut(
        key=key,
        group_name=EVALUATION,
        io_manager_key=TableIOManager.key,
        description=text + (f" With the encoder {encoder}." if encoder else ""),
        kinds={"parquet"},
        owners=OWNERS,
        code_version=code_version,
        metadata=declare_made_from(schema, {name: find_columns(keys, kind.trace(name)) for name in schema.names}),
    )


def declare_made_from(schema: TableSchema, made_from: Mapping[str, Iterable[dg.TableColumnDep]]) -> dict[str, Any]:
    """Return the asset metadata that declares columns, with the columns of other assets that each is made from."""
    lineage = {name: found for name, sources in made_from.items() if (found := [*sources])}
    return {**declare_columns(schema), COLUMN_LINEAGE: dg.TableColumnLineage(lineage)}


def find_columns(keys: Mapping[str, dg.AssetKey], sources: Iterable[str]) -> Iterator[dg.TableColumnDep]:
    """Return columns that are written as `<name>.<column>`, of the assets with these keys by name."""
    for name, _, column in (source.partition(".") for source in sources):
        yield dg.TableColumnDep(keys[name], column)


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
    text = f"each of {ranked.ranks['query_id'].n_unique():,} queries has a place"
    if counted:
        text = f"{count_of(lost['query_id'].n_unique(), 'query')} left out, of the concepts {name_some(concepts)}: "
        text += "; ".join(f"of {number:,}, {reason}" for reason, number in counted.items())
    return CheckResult(not counted, text, {"left out": lost["query_id"].n_unique()}, lost)


def describe_conditions(
    workspace: Workspace,
    benchmark: str,
    tree: TreeAsset,
    split: str,
    images: Features,
    trainings: Sequence[Mapping[str, Any]] = (),
) -> Conditions:
    """Return what the scores of a split depend on."""
    official, what = tree.facts.get(split, {}), (FEW_SHOT_IMAGES, "gallery images")
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
        annotations=() if workspace.profile == "demo" else _list_other_annotations(workspace),
        precision=f"{images.passport.precision} on {images.passport.device}",
        trainings=trainings,
    )


def _list_other_annotations(workspace: Workspace) -> tuple[str, ...]:
    """Return the annotation files that are not known to be the official ones."""
    found, manifest = find_annotations(workspace.data), load_manifest(ANNOTATIONS / "manifest.yaml")
    if found is None:
        return tuple(file.path for file in manifest.files)
    report = compare_folder(locate_local(found), manifest)
    return (*report.different, *report.missing)
