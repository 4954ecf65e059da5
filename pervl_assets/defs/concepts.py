"""Learning concepts as assets: a token for each concept of a split, and the features of queries with these tokens."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final
from xml.etree.ElementTree import tostring

import dagster as dg
import polars as pl

from pervl_assets.benchmarks import find_searched
from pervl_assets.benchmarks.benchmark import TreeAsset
from pervl_assets.clip.features import Features, list_feature_columns
from pervl_assets.core.files import hash_bytes
from pervl_assets.core.plots import draw_curves
from pervl_assets.core.progress import Progress
from pervl_assets.core.tables import TableSchema
from pervl_assets.defs.checks import to_check_result
from pervl_assets.defs.evaluation import declare_made_from, find_columns
from pervl_assets.defs.evaluation_tables import EVALUATION
from pervl_assets.defs.features import name_key
from pervl_assets.defs.metadata import OWNERS, embed_image
from pervl_assets.defs.placement import GPU_POOL
from pervl_assets.defs.resources import Clip, Workspace
from pervl_assets.defs.set_encoder import TRAINING
from pervl_assets.defs.steps import record_step
from pervl_assets.evaluation.protocols import PALAVRA, PALAVRA_TUNING
from pervl_assets.io_managers.features import FeaturesIOManager
from pervl_assets.io_managers.tables import TableIOManager
from pervl_assets.io_managers.weights import WeightsIOManager
from pervl_assets.training.concept_tokens import (
    VERSION,
    check_losses,
    check_queries,
    check_tokens,
    encode_with_tokens,
    learn_concepts,
    list_token_columns,
)

_TUNING: Final[dict[str, Any]] = asdict(PALAVRA_TUNING)

_TOKENS_WHOLE: Final = "every_concept_has_a_token"
_LOSSES_FELL: Final = "losses_fell"
_CHECKS_OF_TOKENS: Final = {
    _TOKENS_WHOLE: "Every concept has a token of finite numbers by every method and for every seed.",
    _LOSSES_FELL: "Tuning lowered the loss of every concept. A warning.",
}
_SOURCES_OF_TOKENS: Final = {
    "seed": "draws.seed",
    "concept": "draws.concept",
    **dict.fromkeys(("token", "first_loss", "last_loss"), "images.vector draws.image queries.class_name"),
}
"""Columns of inputs that each column is made from."""

_QUERIES_WHOLE: Final = "every_query_is_encoded"
_CHECKS_OF_QUERIES: Final = {
    _QUERIES_WHOLE: "Every query with a token has a vector by every method and for every seed. A warning.",
}
_SOURCES_OF_QUERIES: Final = {
    "id": "tokens.method tokens.seed queries.query_id",
    "vector": "tokens.token queries.text",
}

_TOKENS: Final = """\
The learned token of every concept. From the few-shot images of the scheme `palavra`, by method and seed: the token
that f_theta predicts from the images (Without tuning), the same tuned in 30 steps (PALAVRA), and random numbers tuned
in as many (Only tuning). Seed s takes f_theta and A of repetition s. The images are not encoded again: their features
are averaged. All concepts of the split are tuned at once. After a kill at most one method of one seed is learned again.

The token's text has no template while it is tuned. It must differ from the text `item`; after a training in the mode
`paper` from the class of the concept."""

_FEATURES: Final = """\
CLIP features of the queries with a token. Of the protocol `palavra`, not normalised. Ids are
`<method>/<seed>/<query_id>`. Equal pairs of text and token are encoded once."""


def build_concept_assets(repetitions: int, encoder: str | None = None) -> list[dg.AssetsDefinition]:
    """Return the assets `concept_tokens` and `concept_query_features` of every benchmark that is searched.

    Args:
        repetitions: Number of trained set encoders, which are the seeds from 1.
        encoder: Name of a further encoder; None: the default one.
    """
    return [
        asset
        for benchmark, _, tree in find_searched()
        for asset in (
            _build_tokens(benchmark.name, tree, repetitions, encoder),
            _build_features(benchmark.name, tree, encoder),
        )
    ]


def _split_asset(
    key: dg.AssetKey,
    tree: TreeAsset,
    inputs: Mapping[str, dg.AssetKey],
    schema: TableSchema,
    sources: Mapping[str, str],
    checks: Mapping[str, str],
    **more: Any,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Return the decorator of an asset that is made split by split on the GPU; checks are descriptions by name."""
    decorate: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.asset(
        key=key,
        group_name=key.path[0],
        ins={name: dg.AssetIn(one) for name, one in inputs.items()},
        partitions_def=dg.StaticPartitionsDefinition(list(tree.splits)),
        metadata=declare_made_from(
            schema, {name: find_columns(inputs, text.split()) for name, text in sources.items()}
        ),
        kinds={"parquet"},
        owners=OWNERS,
        pool=GPU_POOL,
        check_specs=[dg.AssetCheckSpec(name, asset=key, description=text) for name, text in checks.items()],
        **more,
    )
    return lambda compute: decorate(record_step(compute, uses=()))


def _build_tokens(benchmark: str, tree: TreeAsset, repetitions: int, encoder: str | None) -> dg.AssetsDefinition:
    key = name_key(f"{benchmark}/concept_tokens", encoder, TRAINING)
    weights = name_key("set_encoder", encoder, TRAINING)

    @_split_asset(
        key,
        tree,
        {
            "images": name_key(f"{benchmark}/image_features", encoder, EVALUATION),
            "draws": dg.AssetKey([EVALUATION, benchmark, "few_shot_draws"]),
            "queries": dg.AssetKey([EVALUATION, benchmark, "queries"]),
        },
        list_token_columns(),
        _SOURCES_OF_TOKENS,
        _CHECKS_OF_TOKENS,
        code_version=f"{VERSION}.{hash_bytes(repr(_TUNING).encode())[:8]}",
        deps=[dg.AssetDep(weights, partition_mapping=dg.AllPartitionMapping())],
        io_manager_key=TableIOManager.key,
        description=_TOKENS,
    )
    def concept_tokens(
        context: dg.AssetExecutionContext,
        workspace: Workspace,
        clip: Clip,
        images: Features,
        draws: pl.DataFrame,
        queries: pl.DataFrame,
    ) -> Iterator[dg.MaterializeResult[pl.DataFrame]]:
        stored, published = WeightsIOManager(data=workspace.data), clip.as_published()
        drawn = draws.filter(scheme=PALAVRA.draws.scheme)
        classes = dict(queries.filter(protocol=PALAVRA.name).select("concept", "class_name").iter_rows())
        learned = learn_concepts(
            drawn,
            images,
            classes,
            ((seed, stored.read(weights, str(seed))) for seed in range(1, repetitions + 1)),
            published.describe(encoder),
            lambda: published.load(encoder),
            _TUNING["negative"],
            {name: value for name, value in _TUNING.items() if name != "negative"},
            TableIOManager(data=workspace.data).resume_work(key, context.partition_key),
            Progress(context.log.info, "tokens"),
            workspace.store.push_file,
        )
        last: dict[str, Any] = {
            f"last loss of {name}": round(one[-1], 4) for name, one in learned.losses.items() if one
        }
        yield TableIOManager.describe(
            learned.tokens,
            checks=[
                to_check_result(_TOKENS_WHOLE, check_tokens(learned.tokens, drawn, repetitions), "error"),
                to_check_result(_LOSSES_FELL, check_losses(learned.tokens), "warning"),
            ],
            loss=embed_image(tostring(draw_curves(learned.losses, "step")), "mean loss, step by step", "image/svg+xml"),
            losses=dg.MetadataValue.json(learned.losses),
            **last,
        )

    return concept_tokens


def _build_features(benchmark: str, tree: TreeAsset, encoder: str | None) -> dg.AssetsDefinition:
    key = name_key(f"{benchmark}/concept_query_features", encoder, EVALUATION)

    @_split_asset(
        key,
        tree,
        {
            "queries": dg.AssetKey([EVALUATION, benchmark, "queries"]),
            "tokens": name_key(f"{benchmark}/concept_tokens", encoder, TRAINING),
        },
        list_feature_columns(),
        _SOURCES_OF_QUERIES,
        _CHECKS_OF_QUERIES,
        code_version="1",
        io_manager_key=FeaturesIOManager.key,
        description=_FEATURES,
    )
    def concept_query_features(
        context: dg.AssetExecutionContext, clip: Clip, queries: pl.DataFrame, tokens: pl.DataFrame
    ) -> Iterator[dg.MaterializeResult[Features]]:
        asked = queries.filter(protocol=PALAVRA.name, form="token")
        progress = Progress(context.log.info, "texts")
        features = encode_with_tokens(asked, tokens, clip.as_published().load(encoder), progress)
        found = check_queries(features, asked, tokens)
        yield FeaturesIOManager.describe(features, checks=[to_check_result(_QUERIES_WHOLE, found, "warning")])

    return concept_query_features
