"""`pervl report`: the evaluation as one HTML file, from stored values. Nothing is materialized or changed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from pervl_assets.benchmarks import find_searched
from pervl_assets.core.addresses import Address
from pervl_assets.core.errors import MissingInputError
from pervl_assets.defs.evaluation import RESULTS_NAME
from pervl_assets.defs.evaluation_tables import EVALUATION
from pervl_assets.defs.features import name_key
from pervl_assets.defs.set_encoder import TRAINING
from pervl_assets.evaluation.examples import choose_examples
from pervl_assets.evaluation.known_scores import PALAVRA_PROMPTS
from pervl_assets.evaluation.report import Shown, build_report
from pervl_assets.io_managers import find_io_managers
from pervl_assets.io_managers.weights import WeightsIOManager
from pervl_assets.settings import Settings
from pervl_assets.training.concept_tokens import read_trainings
from pervl_assets.training.set_encoder import read_curves


def make_report(settings: Settings, encoder: str | None = None) -> bytes:
    """Return the report of everything that is evaluated, as HTML.

    Args:
        settings: Where the values are.
        encoder: Name of a further encoder; None: the default one.

    Raises:
        MissingInputError: Nothing is evaluated.
        PervlError: There is no such encoder.
    """
    settings.require_encoder(encoder)
    results, data = read_results(settings.data, encoder), settings.data
    shown = list(_list_shown(data, encoder))
    curves, tuning = dict(_list_curves(settings, encoder)), _tabulate_tuning(data, encoder)
    facts = {"profile": settings.profile, **_describe_encoder(data, encoder), **_describe_trainings(data, encoder)}
    return build_report(results, shown, curves, tuning, facts)


def read_results(data: Path | Address, encoder: str | None = None) -> pl.DataFrame:
    """Return the results of an encoder (schema `RESULTS`).

    Raises:
        MissingInputError: Nothing is evaluated.
    """
    key = name_key(RESULTS_NAME, encoder, EVALUATION)
    results: pl.DataFrame | None = read_value(data, "tables", key)
    if results is None:
        raise MissingInputError(
            f"Nothing is evaluated in {data}: the table {key.to_user_string()} does not exist.",
            advice=f"Evaluate first: pervl materialize +{key.to_user_string()}; or only a part, e.g. without training: "
            f"pervl materialize '+evaluation/*baseline_scores' {key.to_user_string()}",
        )
    return results


def _describe_encoder(data: Path | Address, encoder: str | None) -> dict[str, str]:
    """Return what is known of the encoder, from the first image features that there are."""
    for benchmark, _, tree in find_searched():
        for split in tree.splits:
            key = name_key(f"{benchmark.name}/image_features", encoder, EVALUATION)
            if (features := read_value(data, "features", key, split)) is not None:
                passport = features.passport
                return {
                    "encoder": passport.model,
                    "weights": f"sha256 {passport.weights_sha256}",
                    "images": passport.preprocessing,
                    "precision": f"{passport.precision} on {passport.device}",
                    "versions": f"torch {passport.torch}, open_clip {passport.open_clip}, Pillow {passport.pillow}",
                }
    return {}


def _describe_trainings(data: Path | Address, encoder: str | None) -> dict[str, str]:
    """Return how the inversion models were trained whose tokens are in the texts that were ranked."""
    found: dict[str, set[int]] = {}
    for benchmark, _, tree in find_searched():
        key = name_key(f"{benchmark.name}/concept_query_features", encoder, EVALUATION)
        for features in (read_value(data, "features", key, split) for split in tree.splits):
            for training in read_trainings(features.passport.tokens) if features else ():
                prompts = "prompts of this package"
                if training.prompts_sha256:
                    prompts = "PALAVRA's prompts" if training.prompts_sha256 == PALAVRA_PROMPTS else "other prompts"
                text = (
                    f"mode {training.mode}, {training.epochs:,} epochs, {training.hidden:,} hidden units, "
                    f"{training.classes:,} classes, {prompts}"
                )
                found.setdefault(text, set()).add(training.seed)
    shown = [f"{text} (repetitions {', '.join(map(str, sorted(seeds)))})" for text, seeds in found.items()]
    return {"training": "; ".join(shown)} if shown else {}


def _list_shown(data: Path | Address, encoder: str | None) -> Iterator[Shown]:
    """Yield the queries to show of every split that is evaluated."""
    splits = [(benchmark, tree.name, split) for benchmark, _, tree in find_searched() for split in tree.splits]
    for benchmark, name, split in splits:
        tree = read_value(data, "trees", dg.AssetKey([benchmark.name, name]), split)
        queries, draws, *ranks = (
            read_value(data, "tables", name_key(f"{benchmark.name}/{table}", of, EVALUATION), split)
            for table, of in (
                *(("queries", None), ("few_shot_draws", None)),
                *(("baseline_ranks", encoder), ("concept_ranks", encoder)),
            )
        )
        found = [frame for frame in ranks if frame is not None]
        if tree is None or queries is None or draws is None or not found:
            continue
        if examples := choose_examples(pl.concat(found), queries, draws):
            yield Shown(benchmark.name, split, benchmark.title, tree, examples)


def _list_curves(settings: Settings, encoder: str | None) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield the losses of every repetition of the training."""
    key, stored = name_key("set_encoder", encoder, TRAINING), WeightsIOManager(data=str(settings.data))
    for repetition in map(str, range(1, settings.repetitions + 1)):
        if stored.exists(key, repetition):
            curves = read_curves(stored.fetch(key, repetition))
            losses = curves.pivot("phase", index="epoch", values=["cycle", "ground_truth"])
            yield f"training, repetition {repetition}", losses.rename(lambda name: name.replace("_", " "))


def _tabulate_tuning(data: Path | Address, encoder: str | None) -> pl.DataFrame:
    """Return the mean losses before the first and the last step of the tuning, by benchmark, split and method."""
    parts = [pl.DataFrame()]
    for benchmark, _, tree in find_searched():
        for split in tree.splits:
            tokens = read_value(data, "tables", name_key(f"{benchmark.name}/concept_tokens", encoder, TRAINING), split)
            if tokens is not None:
                losses = tokens.drop_nulls("first_loss").group_by("method", maintain_order=True)
                first, last = (pl.mean(f"{one}_loss").alias(f"before the {one} step") for one in ("first", "last"))
                name = pl.lit(f"{benchmark.title}, {split}").alias("split")
                parts.append(losses.agg(first, last).select(name, pl.all()))
    return pl.concat(parts, how="diagonal")


def read_value(data: Path | Address, kind: str, key: dg.AssetKey, partition: str | None = None) -> Any | None:
    """Return a stored value, or None if there is none."""
    manager = find_io_managers()[kind](data=str(data))
    return manager.read(key, partition) if manager.exists(key, partition) else None
