"""Protocols: how a paper asks its queries, draws its few-shot images and learns its concepts, as data.

Two scores can be compared only under one protocol. A new protocol is one value in `PROTOCOLS`.

Quirks of PALAVRA that are kept, with their names in docs/evaluation.md:

- E1: the class is before the token (`skirt *`), though its flag is called suffix and the paper says after.
- E2: the command of its README, with `no_fsl=True`, gives the class twice (`skirt skirt`): form `text_twice`.
- E3: the placeholder `person` is replaced wherever it occurs, also in `personal`. Of several `*` the first alone is the
  learned token.
- E4: a class ends at its first `_`: `earless_seal` is `earless`, `giant_panda` is `giant`.
- E5: its text prompt is put in front twice for DeepFashion2. It is empty by default, and here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import polars as pl

from pervl_assets.clip.preprocessing import PreprocessingMode

Method = Literal["with replacement", "without replacement", "in annotated order", "all"]


@dataclass(frozen=True)
class Draws:
    """How the few-shot images of a concept are drawn.

    Attributes:
        scheme: Its name in the table of draws.
        method: `with replacement`, `without replacement`: by numpy's legacy generator, seeded with the seed plus the
            number of the concept, from the sorted images. `in annotated order`: by Python's `random.sample`, seeded
            again for every concept, from the images in the annotations' order. `all`: every image once.
        shots: Images of a concept. None: all.
        seed: The only seed. None: one draw for each of the seeds 1, 2, …
    """

    scheme: str
    method: Method
    shots: int | None
    seed: int | None = None


@dataclass(frozen=True)
class QuerySet:
    """Queries of one kind.

    Attributes:
        name: `rich`, `rich_detailed`, `concept_only` or `concept`.
        forms: Template by form. `{class}` is the class, `*` the place of the learned token. In a template without `*`
            every `*` of the caption becomes the class.
        caption_set: Captions that it is made from: `short` or `detailed`.
        alone: The template is the whole text. Else it replaces the placeholder in the caption.
        first_only: It replaces only the first placeholder.
        by_concept: One query per concept, for which all its images are right. Else one per caption.
    """

    name: str
    forms: Mapping[str, str]
    caption_set: str = "short"
    alone: bool = False
    first_only: bool = False
    by_concept: bool = False


@dataclass(frozen=True)
class Tuning:
    """How a token is learned from few-shot images.

    Attributes:
        steps: Steps of Adam, for all concepts of a split at once.
        learning_rate: Of Adam.
        temperature: Of the contrastive loss.
        negative: Text that the token must differ from. None: the class of the concept.
        text: Text of the token while it is learned.
    """

    steps: int = 30
    learning_rate: float = 0.01
    temperature: float = 0.25
    negative: str | None = "item"
    text: str = "* "


@dataclass(frozen=True)
class Protocol:
    """How queries are asked and scored.

    Attributes:
        name: Its name in tables.
        source: Paper and code that it is from.
        query_sets: Its queries.
        draws: Its few-shot images.
        metric: The score that its paper reports first, as a column of the scores.
        encoder: The CLIP model of its published numbers.
        preprocessing: How images are prepared.
        placeholder: The one that its templates are written for. None: any.
        class_until: A class ends where this first occurs (quirk E4). Empty: it is whole, with blanks for `_`.
    """

    name: str
    source: str
    query_sets: tuple[QuerySet, ...]
    draws: Draws
    metric: str = "mrr"
    encoder: str = "ViT-B/32"
    preprocessing: PreprocessingMode = "model"
    placeholder: str | None = None
    class_until: str = ""

    def applies_to(self, placeholder: str) -> bool:
        """Return whether it has queries for captions with this placeholder."""
        return self.placeholder in (None, placeholder)

    def read_class(self, name: str) -> str:
        """Return a class as this protocol reads it: `earless_seal` is `earless` or `earless seal`."""
        return name.partition(self.class_until)[0] if self.class_until else name.replace("_", " ")


_RICH: Final = {  # the blanks are those of PALAVRA; CLIP's tokenizer ignores them
    "text": " {class} ",
    "text_twice": " {class} {class} ",
    "token": " {class} * ",
    "token_alone": " * ",
}
_CONCEPT_ONLY: Final = {
    "text": "A photo of a {class}",
    "text_twice": "A photo of a {class} {class} ",
    "token": "A photo of a {class} * ",
    "token_alone": "A photo of a *",
}

PALAVRA_TUNING: Final = Tuning()
"""How concepts are learned. Of the other protocols only the baselines are scored."""

PALAVRA: Final = Protocol(
    name="palavra",
    source="arXiv 2204.01694; NVlabs/PALAVRA @ 23a0698",
    query_sets=(
        QuerySet("rich", _RICH),
        QuerySet("rich_detailed", _RICH, caption_set="detailed"),
        QuerySet("concept_only", _CONCEPT_ONLY, alone=True),
    ),
    draws=Draws("palavra", "with replacement", shots=5),
    class_until="_",
)
"""PALAVRA's evaluation with the flags of its README. The token's text has no template while it is learned, and the
negative is `item` for every concept; the paper says otherwise of both."""

POLAR: Final = Protocol(
    name="polar",
    source="arXiv 2506.10182; adobe-research/polar-vl @ 550cce2",
    query_sets=(
        QuerySet("rich", {"text": "person wearing {class}", "token": "person wearing * {class}"}),
        QuerySet(
            "concept",
            {"text": "An image of {class}", "token": "An image of * {class}"},
            alone=True,
            by_concept=True,
        ),
    ),
    draws=Draws("polar", "in annotated order", shots=5, seed=123),
    encoder="ViT-L/14",
    placeholder="person",
)
"""POLAR's evaluation of DeepFashion2. POLAR itself writes the rare word `sks` where a `*` is here, and does not learn a
token: 500 steps of Adam (rate 0.001, regularisation 0.1) change the value matrix of the last text layer by rank 1."""

CONCON_CHI: Final = Protocol(
    name="concon_chi",
    source="CVPR 2024; hsp-iit/concon-chi_benchmark @ 708c8cc",
    query_sets=(
        QuerySet("rich_detailed", {"text": " {class} ", "token": " * "}, caption_set="detailed", first_only=True),
    ),
    draws=Draws("all", "all", shots=None, seed=0),
    encoder="ViT-L/14",
    placeholder="person",
)
"""ConCon-Chi's default evaluation of DeepFashion2. It publishes no number for it."""

DISTINCT: Final = Draws("distinct", "without replacement", shots=5)
"""Five different images of a concept where PALAVRA may draw one twice; all, where a concept has fewer."""

PROTOCOLS: Final = (PALAVRA, POLAR, CONCON_CHI)


def choose_protocols(placeholder: str) -> tuple[Protocol, ...]:
    """Return the protocols that have queries for captions with this placeholder."""
    return tuple(protocol for protocol in PROTOCOLS if protocol.applies_to(placeholder))


def tabulate_protocols(protocols: tuple[Protocol, ...]) -> pl.DataFrame:
    """Return the settings of protocols, one row per set of queries."""
    return pl.DataFrame(
        [
            {
                "protocol": protocol.name,
                "queries": queries.name,
                "captions": "none" if queries.alone else queries.caption_set,
                "one per": "concept" if queries.by_concept else "caption",
                "shots": str(protocol.draws.shots or "all"),
                "drawn": protocol.draws.method,
                "images": f"{protocol.preprocessing}'s preprocessing",
                "score": protocol.metric,
                "encoder": protocol.encoder,
                "source": protocol.source,
            }
            for protocol in protocols
            for queries in protocol.query_sets
        ]
    )
