"""CLIP features of what is searched and asked: images of the trees, and the texts of the queries without a token."""

import dagster as dg
import polars as pl

from pervl_assets.benchmarks import find_searched
from pervl_assets.benchmarks.benchmark import TreeAsset
from pervl_assets.defs.evaluation_tables import EVALUATION
from pervl_assets.defs.features import build_image_features, build_text_features, name_key
from pervl_assets.evaluation.queries import TOKEN


def build_evaluation_features(encoder: str | None = None) -> list[dg.AssetsDefinition]:
    """Return the assets `image_features` and `query_features` of every benchmark that is searched.

    Args:
        encoder: Name of a further encoder; None: the default one.
    """
    return [asset for benchmark, _, tree in find_searched() for asset in _build_features(benchmark.name, tree, encoder)]


def _build_features(benchmark: str, tree: TreeAsset, encoder: str | None) -> tuple[dg.AssetsDefinition, ...]:
    source = dg.AssetKey([benchmark, tree.name])
    by = f" with the encoder {encoder}" if encoder else ""
    images = build_image_features(
        name_key(f"{benchmark}/image_features", encoder, EVALUATION),
        {"source": source, "images": source},
        tree.splits,
        f"CLIP features{by} of the images of the split: few-shot images and those that are searched. Not normalised; "
        "ids are paths below the tree. Whatever `PERVL_PREPROCESSING` says, images are prepared as the model was "
        "published, as in PALAVRA's evaluation. Images that cannot be used are listed among the rejected.",
    )
    texts = build_text_features(
        name_key(f"{benchmark}/query_features", encoder, EVALUATION),
        dg.AssetKey([EVALUATION, benchmark, "queries"]),
        f"CLIP text features{by} of the queries without a token. Each different text once, not normalised; ids are the "
        "texts.",
        f"{benchmark}/queries.text",
        list_texts=_list_texts,
        prompt="",
        partitions=tree.splits,
    )
    return images, texts


def _list_texts(queries: pl.DataFrame) -> list[str]:
    """Return the different texts without a token, in order of appearance."""
    texts = queries["text"].unique(maintain_order=True)
    return texts.filter(~texts.str.contains(TOKEN, literal=True)).to_list()
