"""Learning concepts: a token for each, from its few-shot images (PALAVRA, arXiv 2204.01694, section 4, and its code).

The images of a concept are never encoded here: their stored features are averaged once.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from pervl_assets.clip.encoder import TEXT_BATCH, ClipEncoder
from pervl_assets.clip.features import Features, normalise
from pervl_assets.clip.passport import EmbeddingPassport, advise_on_precision
from pervl_assets.clip.token_texts import TokenTexts
from pervl_assets.core.checks import CheckResult
from pervl_assets.core.errors import PervlError, SchemaError, name_some
from pervl_assets.core.files import hash_bytes
from pervl_assets.core.tables import Column, TableSchema, hash_frame, read_hashed, write_hashed
from pervl_assets.core.text import count_of
from pervl_assets.training.losses import compute_token_losses
from pervl_assets.training.modes import PAPER
from pervl_assets.training.set_encoder import TrainedSetEncoder, TrainingPassport, align, predict_tokens

VERSION: Final = "2"
"""Version of this code: raise it when the same input gives other tokens."""

_PALAVRA: Final = "PALAVRA"
_ONLY_TUNING: Final = "Only tuning"
_WITHOUT_TUNING: Final = "Without tuning"
_METHODS: Final = (_PALAVRA, _ONLY_TUNING, _WITHOUT_TUNING)

_LOSSES: Final = "pervl_losses"

_Vectors = npt.NDArray[np.float32]


def list_token_columns(width: int | None = None) -> TableSchema:
    """Return the columns of the learned tokens. `width` is the length of a token; None: the model's, not read yet."""
    return TableSchema(
        (
            Column(
                "method",
                pl.String,
                "PALAVRA: f_theta's token, tuned; Only tuning: tuned from random numbers; Without tuning: f_theta's",
            ),
            Column("seed", pl.Int32, "seed of the few-shot draw, and repetition of the training"),
            Column("concept", pl.String, "the concept that was learned"),
            Column(
                "token",
                pl.Array(pl.Float32, width) if width else pl.Array,
                "word embedding, one float32 number per dimension of the text tower's words; no unit, not normalised",
            ),
            Column("first_loss", pl.Float64, "contrastive loss before the first step; null without tuning"),
            Column("last_loss", pl.Float64, "contrastive loss before the last step; null without tuning"),
            Column("training", pl.String, "passport of the f_theta and A that were used, with that of the CLIP: JSON"),
        )
    )


class Learned(NamedTuple):
    """Tokens (schema of `list_token_columns`), and by method the mean loss before each step of its tuning."""

    tokens: pl.DataFrame
    losses: dict[str, list[float]]


def learn_tokens(
    texts: TokenTexts,
    images: _Vectors,
    negatives: _Vectors,
    starts: _Vectors,
    *,
    steps: int,
    learning_rate: float,
    temperature: float,
    text: str,
    batch_size: int = 256,
) -> tuple[_Vectors, npt.NDArray[np.float64]]:
    """Tune the tokens of all concepts together, by Adam.

    A step takes the concepts of a batch. If there are several batches, Adam's momentum also moves the tokens that are
    not in the batch, as in PALAVRA. On a CPU the result is the same in every run.

    Args:
        texts: Encodes texts with tokens.
        images: Mean of the normalised features of each concept's images, float32 (C, D).
        negatives: Aligned text features that each concept must differ from, float32 (C, D).
        starts: Tokens to start from, float32 (C, W).
        steps: Passes over all concepts.
        learning_rate: Of Adam.
        temperature: Of the loss, see `compute_token_losses`.
        text: Text with the token, e.g. `* `.
        batch_size: Concepts in one step.

    Returns:
        Tokens, float32 (C, W), and the loss of each concept before each step, (steps, C).
    """
    import torch

    tokens = torch.nn.Parameter(torch.from_numpy(starts.copy()))
    optimizer = torch.optim.Adam([tokens], learning_rate)
    near, far = torch.from_numpy(images), torch.from_numpy(negatives)
    losses = np.empty((steps, len(starts)))
    for step in range(steps):
        for start in range(0, len(starts), batch_size):
            part = slice(start, start + batch_size)
            vectors = texts.encode([text] * len(tokens[part]), tokens[part])
            loss = compute_token_losses(near[part], vectors.cpu(), far[part], temperature)
            optimizer.zero_grad()
            torch.autograd.backward(loss.mean())
            optimizer.step()
            losses[step, part] = loss.detach().numpy()
    return tokens.detach().numpy(), losses


def learn_concepts(
    draws: pl.DataFrame,
    images: Features,
    classes: Mapping[str, str],
    set_encoders: Iterable[tuple[int, TrainedSetEncoder]],
    passport: EmbeddingPassport,
    load_encoder: Callable[[], ClipEncoder],
    negative: str,
    tuning: Mapping[str, Any],
    work: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_saved: Callable[[Path], object] = lambda file: None,
) -> Learned:
    """Learn the concepts of a split by every method and seed.

    Each method of a seed is saved in `work` as soon as it is done, in a file named after a hash of everything that it
    depends on. After a kill those are read again, and the result is the same.

    Args:
        draws: Few-shot draws of one scheme (schema `DRAWS`). An image without a vector is left out of its set, and a
            concept without any has no token.
        images: Features of the images; ids are those of the draws.
        classes: Class of each concept.
        set_encoders: Seed and set encoder of every repetition; one is in memory at a time.
        passport: Of the encoder that `load_encoder` loads.
        load_encoder: Loads the encoder of `images`; called only if there is something to tune.
        negative: Text that every concept must differ from: `item` in PALAVRA's command (quirk T10). With a set encoder
            of the mode `paper` it is the concept's class, as the paper says.
        tuning: Keyword arguments of `learn_tokens`.
        work: Folder of the saved parts. Remove it once the result is stored.
        on_progress: Called after every method of a seed with the number of tokens that are learned, and their total.
        on_saved: Called with every file of `work` that is saved.

    Raises:
        PervlError: Images or set encoders are of another CLIP, or a loss is not finite.
    """
    parts, total = [], len(_METHODS) * draws.select("seed", "concept").n_unique()
    _require_encoder("The images were encoded", images.passport, passport)
    for seed, trained in set_encoders:
        _require_encoder(f"The inversion model of repetition {seed} was trained", trained.passport.encoder, passport)
        drawn = draws.filter(seed=seed)
        shots, own = _gather_shots(drawn, images), classes if trained.passport.mode == PAPER.name else {}
        negatives = [own.get(concept, negative) for concept in shots]
        task = _Task(seed, trained, shots, negatives, load_encoder, tuning)
        # The hash of the images has the encoder in it.
        inputs = [VERSION, trained.hash(), images.hash(), hash_frame(drawn), negatives, dict(tuning)]
        for method in _METHODS:
            digest = hash_bytes(json.dumps([method, seed, *inputs]).encode())
            parts.append(_resume(work / f"{digest[:16]}.parquet", method, task, on_saved))
            on_progress(sum(part.tokens.height for part in parts), total)
    losses = {
        method: np.mean([part.losses[method] for part in parts if method in part.losses], axis=0).tolist()
        for method in dict.fromkeys(method for part in parts for method in part.losses)
    }
    return Learned(pl.concat([part.tokens for part in parts]), losses)


def _require_encoder(done: str, found: EmbeddingPassport, passport: EmbeddingPassport) -> None:
    """Refuse another encoder. Images may be prepared in another way: texts and tokens do not depend on it."""
    if differences := replace(found, preprocessing=passport.preprocessing).list_differences(passport):
        raise PervlError(
            f"{done} with another CLIP than the one in use: {'; '.join(differences)}.",
            advice="Use the earlier model, precision and device, or materialize all that depends on the model: "
            "pervl materialize +evaluation",
        )


class _Task(NamedTuple):
    """What all methods of a seed have in common."""

    seed: int
    trained: TrainedSetEncoder
    shots: Mapping[str, _Vectors]
    negatives: list[str]
    load_encoder: Callable[[], ClipEncoder]
    tuning: Mapping[str, Any]


def _gather_shots(draws: pl.DataFrame, images: Features) -> dict[str, _Vectors]:
    """Return the normalised features of each concept's images (K, D); an image drawn twice is there twice."""
    rows = pl.DataFrame({"image": images.ids}, {"image": pl.String}).with_row_index("row")
    shots = draws.join(rows, "image", maintain_order="left").group_by("concept", maintain_order=True).agg("row")
    return {concept: normalise(images.vectors[rows]) for concept, rows in shots.iter_rows()}


def _resume(file: Path, method: str, task: _Task, on_saved: Callable[[Path], object]) -> Learned:
    """Learn all concepts by one method, or read what was saved before."""
    with suppress(OSError, SchemaError):
        tokens, metadata = read_hashed(file)
        return Learned(tokens, json.loads(metadata[_LOSSES]))
    learned = _learn(method, task)
    write_hashed(learned.tokens, file, {_LOSSES: json.dumps(learned.losses)})
    on_saved(file)
    return learned


def _learn(method: str, task: _Task) -> Learned:
    starts = _draw_starts(task) if method == _ONLY_TUNING else _predict_starts(task)
    tokens, losses = starts, np.empty((0, len(starts)))
    if method != _WITHOUT_TUNING and len(starts):
        encoder = task.load_encoder()
        means = np.stack([shots.mean(axis=0) for shots in task.shots.values()])
        negatives = align(task.trained, normalise(encoder.encode_texts(task.negatives)))
        tokens, losses = learn_tokens(TokenTexts(encoder), means, negatives, starts, **task.tuning)
        _require_finite(losses, task, method)
    first, last = (losses[0], losses[-1]) if len(losses) else (None, None)
    columns = {
        "method": [method] * len(tokens),
        "seed": [task.seed] * len(tokens),
        "concept": [*task.shots],
        "token": tokens,
        "first_loss": first,
        "last_loss": last,
        "training": task.trained.passport.to_json(),
    }
    frame = pl.DataFrame(columns, schema=list_token_columns(tokens.shape[1]).to_polars())
    return Learned(frame, {method: losses.mean(axis=1).tolist()} if len(losses) else {})


def _require_finite(losses: npt.NDArray[np.float64], task: _Task, method: str) -> None:
    broken = [concept for concept, row in zip(task.shots, losses.T, strict=True) if not np.isfinite(row).all()]
    if broken:
        raise PervlError(
            f"The loss of {len(broken):,} of {len(task.shots):,} concepts is not finite (seed {task.seed}, {method}): "
            f"{name_some(broken)}.",
            advice=advise_on_precision(task.trained.passport.encoder.precision),
        )


def _predict_starts(task: _Task) -> _Vectors:
    """Return f_theta's tokens (C, W); sets of one size are one batch."""
    sets = [*task.shots.values()]
    starts = np.empty((len(sets), task.trained.passport.width), np.float32)
    for size in {len(one) for one in sets}:
        rows = [row for row, one in enumerate(sets) if len(one) == size]
        starts[rows] = predict_tokens(task.trained, np.stack([sets[row] for row in rows]))
    return starts


def _draw_starts(task: _Task) -> _Vectors:
    """Return normalised uniform random numbers (C, W); PALAVRA does not seed them."""
    import torch

    generator = torch.Generator().manual_seed(task.seed)
    return normalise(torch.rand(len(task.shots), task.trained.passport.width, generator=generator).numpy())


def encode_with_tokens(
    queries: pl.DataFrame,
    tokens: pl.DataFrame,
    encoder: ClipEncoder,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Features:
    """Encode queries with the token of their concept, by every method and seed.

    Args:
        queries: Columns `query_id`, `concept` and `text`. One is left out if its concept has no token, or if the model
            does not read as far as its `*`.
        tokens: Learned tokens, see `list_token_columns`.
        encoder: The encoder that the tokens were learned with.
        on_progress: See `TokenTexts.encode_all`.

    Returns:
        Features with the ids `<method>/<seed>/<query_id>`. Their passport notes how the tokens were learned.

    Raises:
        PervlError: The tokens are of another encoder.
        SchemaError: They do not say of which.
    """
    trainings = tokens.get_column("training", default=pl.Series(["null"])).unique(maintain_order=True)
    note = f"[{', '.join(trainings)}]"
    for training in read_trainings(note):
        _require_encoder("The tokens were learned", training.encoder, encoder.passport)
    texts = TokenTexts(encoder)
    read = queries.select("query_id", "concept", "text").filter(texts.have_place(queries["text"].to_list()))
    rows = tokens.with_row_index("row").select("row", "method", "seed", "concept")
    runs = tokens.select("method", "seed").unique(maintain_order=True)
    pairs = runs.join(read, how="cross").join(rows, ["method", "seed", "concept"], maintain_order="left")
    learned = tokens["token"].to_numpy()[pairs["row"].to_numpy()]
    ids = pairs.select(pl.concat_str("method", "seed", "query_id", separator="/")).to_series().to_list()
    vectors = texts.encode_all(pairs["text"].to_list(), learned, on_progress=on_progress)
    return Features(ids, vectors, replace(encoder.passport, batch_size=TEXT_BATCH, tokens=note))


def read_trainings(note: str) -> list[TrainingPassport]:
    """Return the passports of the inversion models that tokens were learned with, each once.

    Args:
        note: `EmbeddingPassport.tokens` of the features that `encode_with_tokens` returned.

    Raises:
        SchemaError: The note does not hold them.
    """
    try:
        return [TrainingPassport.from_json(json.dumps(one)) for one in json.loads(note)]
    except (LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise SchemaError(
            f"The tokens do not say how their inversion model was trained: {error!r}.",
            advice="Materialize concept_tokens and concept_query_features again.",
        ) from error


def check_tokens(tokens: pl.DataFrame, draws: pl.DataFrame, repetitions: int) -> CheckResult:
    """Check that every drawn concept has a token of finite numbers by every method, and for every seed from 1."""
    concepts = draws.select(pl.col("concept").unique(maintain_order=True))
    seeds = pl.DataFrame({"seed": range(1, repetitions + 1)}, {"seed": pl.Int32})
    expected = concepts.join(pl.DataFrame({"method": _METHODS}), how="cross").join(seeds, how="cross")
    finite = tokens.filter(np.isfinite(tokens["token"].to_numpy()).all(axis=1))
    wrong = expected.join(finite, ["method", "seed", "concept"], "anti")
    text = f"{expected.height:,} tokens of {concepts.height:,} concepts, all finite"
    if wrong.height:
        names = name_some(wrong["concept"].unique(maintain_order=True).to_list())
        text = f"{wrong.height:,} of {expected.height:,} tokens missing or not finite, of the concepts {names}"
    return CheckResult(wrong.is_empty(), text, {"tokens": expected.height, "wrong": wrong.height}, wrong)


def check_losses(tokens: pl.DataFrame) -> CheckResult:
    """Check that the loss of every tuned token fell."""
    tuned = tokens.drop_nulls("first_loss").drop("token")
    rose = tuned.filter(~(pl.col("last_loss") < pl.col("first_loss")))
    text = f"{rose.height:,} of {tuned.height:,} losses did not fall"
    return CheckResult(rose.is_empty(), text, {"tuned": tuned.height, "not fallen": rose.height}, rose)


def check_queries(features: Features, queries: pl.DataFrame, tokens: pl.DataFrame) -> CheckResult:
    """Check that `encode_with_tokens` left no query out."""
    wanted = queries.height * tokens.select("method", "seed").n_unique()
    encoded = {one.split("/", 2)[2] for one in features.ids}
    without = [one for one in queries["query_id"] if one not in encoded]
    text = f"{len(features.ids):,} vectors of {queries.height:,} queries"
    if without:
        text += (
            f". {count_of(len(without), 'query')} without, whose concept has no token or whose text is too long for "
            f"the model: {name_some(without)}"
        )
    return CheckResult(len(features.ids) == wanted, text, {"vectors": len(features.ids), "wanted": wanted})
