"""Whether scores were measured as the published ones were, and the check of the known text-only scores.

The paper's text-only scores have no spread. Under OpenAI's ViT-B/32 on the official images they must come out again:
that proves trees, queries, features and metric at once.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from pervl_assets.clip.preprocessing import UPSTREAM
from pervl_assets.core.checks import CheckResult
from pervl_assets.core.errors import name_some
from pervl_assets.core.text import count_of
from pervl_assets.evaluation.methods import TEXT_ONLY, TEXT_TWICE
from pervl_assets.evaluation.protocols import PALAVRA

WEIGHTS: Final = {
    "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af": "ViT-B/32",
    "e6d1bd7789aa45192b3bf90570a789b478bae1b74ebcce7eddd908e83a2b7c31": "ViT-B/32",
}
"""OpenAI's CLIP by the sha256 of its weights' file: their own ViT-B-32.pt, and open_clip_model.safetensors of
timm/vit_base_patch32_clip_224.openai (605,143,284 bytes), which open_clip fetches."""

FEW_SHOT_IMAGES: Final = "few-shot images"
PUBLISHED_IN: Final = "fp16 on cuda"
"""Precision and device of PALAVRA's own scores."""

_READINGS: Final = {TEXT_ONLY: "the class once", TEXT_TWICE: "the class twice"}
_TOLERANCE: Final = 0.0005
"""Half of the last published digit."""

TRAINED_AS_PUBLISHED: Final = {
    "mode": "palavra",
    "epochs": 300,
    "hidden": 4096,
    "classes": 1000,
    "lost_images": 0,
    "preprocessing": UPSTREAM.describe(),
    "names": "upstream",
}
PALAVRA_PROMPTS: Final = "75a42438e15421592df92741678a86c8a633b3bdeef60bb1bf2f21afa4664303"
"""The sha256 of PALAVRA's 24 prompts, sorted, one per line. They are not part of this package."""


@dataclass(frozen=True)
class Conditions:
    """What the scores of a split depend on, beside the protocol.

    Attributes:
        benchmark: Name of the benchmark.
        split: Name of the split.
        synthetic: Whether the images are those of the demo.
        weights_sha256: Of the file of the encoder's weights.
        counts: Images that have a vector, by what they are for; one of them is `FEW_SHOT_IMAGES`.
        official: The same counts of the official tree; empty if they are not known.
        annotations: Annotation files that are not known to be the official ones.
        precision: Precision and device of the encoder: "fp32 on cpu".
        trainings: How the inversion models of the tokens were trained: entries of `TrainingPassport`, of all seeds.
    """

    benchmark: str
    split: str
    synthetic: bool
    weights_sha256: str
    counts: Mapping[str, int]
    official: Mapping[str, int]
    annotations: Collection[str] = ()
    precision: str = PUBLISHED_IN
    trainings: Sequence[Mapping[str, Any]] = ()

    def list_deviations(self, encoder: str | None, *, drawn: bool) -> list[str]:
        """Return why scores cannot be compared with published ones.

        Args:
            encoder: The CLIP model of the published ones; None: they depend on none.
            drawn: Whether the method needs few-shot images.
        """
        known = WEIGHTS.get(self.weights_sha256)
        found = ["the images are those of the demo"] if self.synthetic else self._list_other_data(drawn=drawn)
        if encoder is not None and known != encoder:
            found.append(f"the weights (sha256 {self.weights_sha256[:12]}…) are not those of OpenAI's {encoder}")
        return found

    def _list_other_data(self, *, drawn: bool) -> list[str]:
        found = []
        if self.annotations:
            named = name_some(sorted(self.annotations))
            found.append(f"{count_of(len(self.annotations), 'annotation file')} not known to be official: {named}")
        if not self.official:
            return [*found, "the official number of images is not known"]
        return found + [
            f"{self.counts.get(what, 0):,} {what}, officially {count:,}"
            for what, count in self.official.items()
            if self.counts.get(what, 0) != count and (drawn or what != FEW_SHOT_IMAGES)
        ]

    def list_training_deviations(self) -> list[str]:
        """Return in what an inversion model was trained otherwise than the published ones."""
        if not self.trainings:
            return ["it is not known how the inversion models were trained"]
        found = [
            f"trained with {name.replace('_', ' ')} {training.get(name)}, published {value}"
            for training in self.trainings
            for name, value in TRAINED_AS_PUBLISHED.items()
            if training.get(name) != value
        ]
        if any(training.get("prompts_sha256") != PALAVRA_PROMPTS for training in self.trainings):
            found.append("trained with other prompts than PALAVRA's 24 (PERVL_TRAINING_PROMPTS)")
        return [*dict.fromkeys(found)]


def list_lost(score: Mapping[str, Any]) -> list[str]:
    """Return why a row of scores is not of all queries: in PALAVRA's protocol each image is the answer to one."""
    if score["protocol"] != PALAVRA.name or score["queries"] == score["gallery"]:
        return []
    return [f"{score['queries']:,} queries for {score['gallery']:,} images, officially one for each"]


def check_known_scores(scores: pl.DataFrame, published: pl.DataFrame, conditions: Conditions) -> CheckResult:
    """Compare the text-only MRR of a split with the published one, to half of its last digit.

    The paper does not say whether its texts have the class once or twice (quirk E2). The result says which of the two
    gives its scores. Where these are not to be expected the check passes, as not applicable, and says why.

    Args:
        scores: Schema `SCORES`.
        published: Schema `PUBLISHED`.
        conditions: What the scores depend on.
    """
    split = {"benchmark": conditions.benchmark, "split": conditions.split}
    known = published.filter(method=TEXT_ONLY, **split)
    if known.is_empty():
        return CheckResult(True, f"not applicable: no text-only score of {' '.join(split.values())} is published")
    by = ["protocol", "query_set"]
    measured = scores.filter(pl.col("method").is_in([*_READINGS])).join(known, by, "semi", maintain_order="left")
    deviations = [
        *(one for encoder in known["encoder"].unique() for one in conditions.list_deviations(encoder, drawn=False)),
        *(one for row in measured.iter_rows(named=True) for one in list_lost(row)),
    ]
    if deviations:
        return CheckResult(True, f"not applicable: {'; '.join(dict.fromkeys(deviations))}")
    rows = known.select(*by, published="mrr")
    for method, reading in _READINGS.items():
        found = measured.filter(method=method).select(*by, pl.col("mrr").alias(reading))
        rows = rows.join(found, by, "left", maintain_order="left")
    fits = {reading: _fit(rows, reading) for reading in _READINGS.values()}
    named = [reading for reading, found in fits.items() if all(found)]
    text = "; ".join(
        f"{query_set}: published {score:.1%}, "
        + ", ".join(f"with {reading} {_show(value)}" for reading, value in zip(fits, found, strict=True))
        for _, query_set, score, *found in rows.iter_rows()
    )
    if named:
        return CheckResult(
            True, f"the paper's text-only scores come out, with {' and with '.join(named)}. {text}", rows=rows
        )
    reached = sum(any(pair) for pair in zip(*fits.values(), strict=True))
    return CheckResult(
        False,
        f"the paper's text-only scores do not come out: no reading gives all {rows.height:,} of them to 0.05 points, "
        f"and {reached:,} come out under one of the two. {text}. Compare the images with the official ones by "
        f"pervl verify and the check known_archive. The published ones were measured in {PUBLISHED_IN}, these in "
        f"{conditions.precision}: two images that are nearly as similar can change places",
        {"scores": rows.height, "come out": reached},
        rows,
    )


def _fit(rows: pl.DataFrame, reading: str) -> list[bool]:
    """Return for each published score whether a reading gives it."""
    near = (pl.col(reading) - pl.col("published")).abs() <= _TOLERANCE + 1e-9
    return rows.select(near.fill_null(value=False)).to_series().to_list()


def _show(score: float | None) -> str:
    return "not measured" if score is None else f"{score:.2%}"
