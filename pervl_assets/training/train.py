"""Training of the inversion model: resumable after every epoch, and repeatable to the last bit.

Written from the paper (arXiv 2204.01694, section 4) and from a description of upstream's behaviour. CLIP is frozen.
Every pass has random numbers of its own, from the seed and its number, so an epoch that is repeated after a kill draws
what it drew before.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from pervl_assets.clip.encoder import ClipEncoder
from pervl_assets.clip.features import Features, read_features, write_features
from pervl_assets.clip.passport import advise_on_precision
from pervl_assets.clip.token_texts import TokenTexts
from pervl_assets.core.claims import Claim, claim_work
from pervl_assets.core.errors import PervlError, SchemaError
from pervl_assets.core.files import PARTIAL, explain_write_errors, hash_bytes, make_folder, move_synced
from pervl_assets.training.losses import compute_cycle_loss, compute_ground_truth_loss
from pervl_assets.training.modes import MODES, PROMPTS, TEST_PROMPT, Sets
from pervl_assets.training.set_encoder import (
    ALIGNMENT,
    CURVES,
    HEADER,
    TrainedSetEncoder,
    TrainingPassport,
    list_shapes,
    read_header,
    run_alignment,
    run_set_encoder,
)
from pervl_assets.training.training_data import TrainingData

if TYPE_CHECKING:
    import torch

VERSION: Final = "1"
"""Version of this code: raise it when the same input gives other weights."""

SHOTS: Final = 5
"""Images, or sentences, of a set."""

_BATCH: Final = 256
_RATE: Final = 1e-4
_DECAY: Final = 0.2
_DROPOUT: Final = 0.25
_TEMPERATURE: Final = 0.25
_PHASES: Final = ("image", "text", "test")

_CHUNK: Final = 4096
"""Sentences that are encoded, and saved, at once."""

_MOST_AUGMENTED: Final = 100_000
"""If masked sentences and names combine to at most so many texts, and to no more than are drawn, all are encoded in
advance; else those of an epoch are."""

_CHECKPOINT: Final = "checkpoint.safetensors"

_log = logging.getLogger(__name__)


def train_set_encoder(
    data: TrainingData,
    passport: TrainingPassport,
    load_encoder: Callable[[], ClipEncoder],
    work: Path,
    previous: TrainedSetEncoder | None = None,
    prompts: tuple[str, ...] = PROMPTS,
    on_progress: Callable[[pl.DataFrame], None] = lambda curves: None,
    on_encoded: Callable[[int, int], None] = lambda done, total: None,
    on_saved: Callable[[Path], object] = lambda file: None,
    claim: Claim | None = None,
) -> TrainedSetEncoder:
    """Train f_theta and A, unless `previous` has the same passport: then it is returned, and no model is loaded.

    Each epoch is saved in `work`. After a kill only the epoch that had begun is lost. On a CPU the weights are the same
    then, to the last bit, as long as machine and number of threads are. Call `clear_chunks(work)` once they are stored.

    Args:
        data: What it is trained on.
        passport: What it must be; mode, seed, epochs and hidden units are taken from it.
        load_encoder: Loads the CLIP.
        work: Folder of unfinished work, with `.partial` in its name.
        previous: The set encoder as it was stored last.
        prompts: Prompts that are drawn from; others than those of this package are recorded in the passport.
        on_progress: Called after every epoch with the curves so far, as `CURVES`.
        on_encoded: Called with the number of sentences that are encoded in advance, so far and in all.
        on_saved: Called with every file of `work` that is saved.
        claim: Who trains, where a run that was given up may be at work; it stops after its epoch.

    Raises:
        PervlError: The image features are those of another CLIP, or a loss is not finite.
        CheckpointError: The CLIP cannot encode texts with tokens.
        WriteError: The work cannot be saved, or another run trains the same.
    """
    if prompts != PROMPTS:
        passport = replace(passport, prompts_sha256=hash_bytes("\n".join(prompts).encode()))
    if previous is not None and previous.passport == passport:
        return previous
    described = replace(data.features.passport, preprocessing=passport.encoder.preprocessing)
    if differences := described.list_differences(passport.encoder):  # images may be prepared in another way (quirk T9)
        raise PervlError(
            f"The image features were encoded by another CLIP than the one to train with: {'; '.join(differences)}.",
            advice="Materialize the image features again, with the same model, precision and device.",
        )
    lock, title = work.with_name(f"{work.name}.lock"), f"training {work.name.removesuffix(PARTIAL)}"
    with claim_work(lock, title, claim) as stop_if_asked:
        trainer = Trainer(data, passport, load_encoder(), work, prompts, on_encoded, on_saved)
        trainer.restore()
        while trainer.epochs < passport.epochs:
            trainer.run_epoch()
            on_saved(trainer.save())
            on_progress(trainer.curves)
            stop_if_asked()
        return trainer.finish()


@dataclass(frozen=True)
class _Drawn:
    """What a pass draws.

    Attributes:
        kind: What its sets are made of.
        sets: Unit vectors of images, or vectors of texts, not normalised (C, K, D).
        captions: Vectors of the images' sentences, not normalised (C, K, D); None where A has no step of its own.
        labels: Name of every class.
        targets: Unit vectors of the labels (C, D) by prompt, as far as they are encoded.
    """

    kind: Sets
    sets: "torch.Tensor"
    captions: "torch.Tensor | None"
    labels: list[str]
    targets: "dict[str, torch.Tensor]"


class Trainer:
    """Weights, optimisers and curves of a training, made of what `train_set_encoder` takes.

    Attributes:
        curves: Losses of all passes so far, as `CURVES`.
    """

    def __init__(
        self,
        data: TrainingData,
        passport: TrainingPassport,
        encoder: ClipEncoder,
        work: Path,
        prompts: tuple[str, ...],
        on_encoded: Callable[[int, int], None],
        on_saved: Callable[[Path], object],
    ) -> None:
        import torch

        self.curves = pl.DataFrame(schema=CURVES.to_polars())
        self._tokens, self._class_targets = TokenTexts(encoder), dict[str, torch.Tensor]()
        self._data, self._passport, self._encoder = data, replace(passport, width=self._tokens.width), encoder
        self._checkpoint, self._mode, self._prompts = work / _CHECKPOINT, MODES[passport.mode], prompts
        self._images = _normalise(torch.tensor(data.features.vectors))
        tested = data.test.sentences if self._mode.tests_on == "text" else []
        most = min(_MOST_AUGMENTED, passport.epochs * len(data.classes) * SHOTS)
        sentences = sorted({*data.train.sentences, *tested, *data.list_augmented(most)})
        self._sentence_rows = {sentence: row for row, sentence in enumerate(sentences)}
        self._sentences = torch.from_numpy(_encode_sentences(sentences, encoder, work, on_encoded, on_saved))
        words = sorted({*data.classes, *data.names})
        self._word_rows = {word: row for row, word in enumerate(words)}
        self._words = self._tokens.embed_first_tokens(words)
        self._device = self._words.device
        shapes = list_shapes(encoder.passport.dimension, self._tokens.width, passport.hidden)
        generator = _seed(passport.seed, 0)
        self._weights = {name: _initialise(name, shapes, generator).to(self._device) for name in shapes}
        both = (
            [one.requires_grad_() for name, one in self._weights.items() if (name in ALIGNMENT) == of_a]
            for of_a in (False, True)
        )
        self._optimisers = [torch.optim.Adam(group, lr=_RATE, fused=True) for group in both]
        self._inverter, self._aligner = self._optimisers

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""
        return self.curves.height // len(_PHASES)

    def run_epoch(self) -> None:
        """Train on sets of images, then on sets of texts, then test.

        Raises:
            PervlError: A loss is not finite.
        """
        passes = enumerate(_PHASES, self.curves.height)
        rows = [(self.epochs + 1, phase, *self._run_pass(number, phase)) for number, phase in passes]
        self.curves = self.curves.vstack(pl.DataFrame(rows, CURVES.to_polars(), orient="row"))

    def _run_pass(self, number: int, phase: str) -> tuple[float, float, float | None, float]:
        """Go once through all classes, in batches.

        Returns:
            Mean cycle loss, mean ground-truth loss, mean alignment loss of image passes, accuracy of the first batch.
        """
        import torch

        generator = _seed(self._passport.seed, number + 1)
        drawn = self._draw(phase, generator)
        decays = number // self._mode.decay_passes if self._mode.decay_passes else 0
        self._inverter.param_groups[0]["lr"] = _RATE * _DECAY**decays
        prompts = (TEST_PROMPT,) if phase == "test" else self._prompts
        prompt = _draw_prompt(prompts, generator)
        losses, alignments = [], []
        for batch in torch.split(torch.randperm(len(drawn.labels), generator=generator), _BATCH):
            if self._mode.prompt_of == "batch":
                prompt = _draw_prompt(prompts, generator)
            if drawn.captions is not None:
                alignments.append(self._step_alignment(drawn.sets[batch], drawn.captions[batch]))
            with torch.set_grad_enabled(phase != "test"):
                losses.append(self._step(drawn, batch, prompt, generator))
        cycle, ground_truth, _ = np.mean(losses, axis=0).tolist()
        if not math.isfinite(cycle + ground_truth):
            raise PervlError(
                f"The loss of epoch {self.epochs + 1} ({phase}) of repetition {self._passport.seed} is not finite.",
                advice=advise_on_precision(self._passport.encoder.precision),
            )
        return cycle, ground_truth, float(np.mean(alignments)) if alignments else None, losses[0][2]

    def _step_alignment(self, images: "torch.Tensor", captions: "torch.Tensor") -> float:
        """Bring A of captions, which are not normalised before it, nearer to their images; return the loss."""
        from torch.nn.functional import mse_loss

        aligned = _normalise(run_alignment(self._weights, captions.to(self._device)))
        loss = mse_loss(aligned, images.to(self._device))
        _minimise(loss, self._aligner)
        return loss.item()

    def _step(
        self, drawn: _Drawn, batch: "torch.Tensor", prompt: str, generator: "torch.Generator"
    ) -> tuple[float, float, float]:
        """Predict the tokens of a batch of classes; where gradients are on, bring them nearer to what they should be.

        Returns:
            Cycle loss, ground-truth loss, and the share of queries that are nearest to their own target.
        """
        import torch

        trains = torch.is_grad_enabled()
        aligns = trains and drawn.kind == "text" and self._mode.aligns_on_text
        sets = drawn.sets[batch].to(self._device)
        if drawn.kind == "text":
            with torch.set_grad_enabled(aligns):
                sets = _normalise(run_alignment(self._weights, sets))
        dropout = _make_dropout(generator) if trains or self._mode.drops_in_test else _keep
        tokens = run_set_encoder(self._weights, sets, dropout)
        queries = _normalise(self._tokens.encode([prompt] * len(batch), tokens))
        if self._mode.target == "set":
            targets = _normalise(sets.detach().mean(dim=1))
        else:
            if prompt not in drawn.targets:  # quirk T2: the last character is cut off, whether it is the * or not
                drawn.targets[prompt] = _normalise(self._encode([prompt[:-1] + label for label in drawn.labels]))
            targets = drawn.targets[prompt][batch].to(self._device)
        cycle = compute_cycle_loss(queries, targets, _TEMPERATURE)
        words = self._words[[self._word_rows[drawn.labels[row]] for row in batch.tolist()]]
        ground_truth = compute_ground_truth_loss(tokens, words)
        if trains:
            loss = cycle + self._mode.ground_truth_weight * ground_truth
            _minimise(loss, self._inverter, *([self._aligner] if aligns else []))
        nearest = (queries @ targets.T).argmax(dim=1).cpu()
        accuracy = (nearest == torch.arange(len(batch))).float().mean()
        return cycle.item(), ground_truth.item(), accuracy.item()

    def _draw(self, phase: str, generator: "torch.Generator") -> _Drawn:
        """Draw the sets of a pass, one of every class."""
        rows = self._data.test if phase == "test" else self._data.train
        drawn = rows.draw(SHOTS, generator)
        if phase == "text":
            labels, sentences = self._data.draw_augmented(drawn, generator)
            texts = self._encode(sentences).reshape(*drawn.shape, -1)
            return _Drawn("text", texts, None, labels, {})
        images, captions = self._images[rows.images[drawn]], None
        if phase == "image" or self._mode.tests_on == "text":
            captions = self._encode([rows.sentences[row] for row in drawn.ravel()]).reshape(*drawn.shape, -1)
        if phase == "test" and captions is not None:
            return _Drawn("text", captions, None, self._data.classes, self._class_targets)
        return _Drawn("image", images, captions, self._data.classes, self._class_targets)

    def _encode(self, texts: list[str]) -> "torch.Tensor":
        """Return the vectors of texts (M, D): those encoded in advance, or of now where one of them was not."""
        import torch

        rows = [row for text in texts if (row := self._sentence_rows.get(text)) is not None]
        return self._sentences[rows] if len(rows) == len(texts) else torch.from_numpy(self._encoder.encode_texts(texts))

    def save(self) -> Path:
        """Save weights, state of the optimisers and curves, whole or not at all. Return their file.

        Raises:
            WriteError: No permission, or no space left.
        """
        from safetensors.torch import save

        tensors = {name: one.detach() for name, one in self._weights.items()}
        for number, optimiser in enumerate(self._optimisers):
            for row, state in optimiser.state_dict()["state"].items():
                tensors |= {f"{number}.{row}.{entry}": one for entry, one in state.items()}
        state = {"passport": self._passport.to_json(), "curves": self.curves.to_dicts()}
        partial = self._checkpoint.with_suffix(PARTIAL)
        with explain_write_errors(self._checkpoint):
            make_folder(partial.parent)
            # The bytes are made in memory, as safetensors hides why it cannot write; a gigabyte takes seconds to hash.
            partial.write_bytes(save(tensors, {HEADER: json.dumps(state)}))
            move_synced(partial, self._checkpoint)
        return self._checkpoint

    def restore(self) -> None:
        """Go on from the saved epoch, if there is one of the same passport; another one is dropped, and logged."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        if not self._checkpoint.is_file():
            return
        try:
            data = self._checkpoint.read_bytes()
            tensors, state = load(data), read_header(data)
            if TrainingPassport.from_json(state["passport"]) != self._passport:
                raise ValueError("other data, model or settings")
            curves = pl.DataFrame(state["curves"], CURVES.to_polars())
            weights = {name: tensors.pop(name) for name in self._weights}
        except (SafetensorError, pl.exceptions.PolarsError, LookupError, ValueError, TypeError) as error:
            _log.warning("Dropped the saved epoch %s: %s.", self._checkpoint, error)
            return
        for name, one in self._weights.items():
            one.data.copy_(weights[name])
        for number, optimiser in enumerate(self._optimisers):
            states: dict[int, dict[str, torch.Tensor]] = {}
            for name, one in tensors.items():
                group, row, entry = name.split(".")
                if int(group) == number:
                    states.setdefault(int(row), {})[entry] = one
            optimiser.load_state_dict({**optimiser.state_dict(), "state": states})
        self.curves = curves
        _log.info("Resumed after epoch %d of %d.", self.epochs, self._passport.epochs)

    def finish(self) -> TrainedSetEncoder:
        """Return the set encoder as it is now."""
        weights = {name: one.detach().cpu().numpy() for name, one in self._weights.items()}
        return TrainedSetEncoder(weights, self._passport, self.curves)


def _seed(*numbers: int) -> "torch.Generator":
    """Return a generator of random numbers that depends on some numbers alone."""
    import torch

    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]))


def _initialise(name: str, shapes: Mapping[str, tuple[int, ...]], generator: "torch.Generator") -> "torch.Tensor":
    """Return a parameter as PyTorch begins a linear layer: uniform within 1 / sqrt(inputs)."""
    import torch

    inputs = shapes[name.replace("bias", "weight")][1]
    return torch.empty(shapes[name]).uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)


def _draw_prompt(prompts: tuple[str, ...], generator: "torch.Generator") -> str:
    import torch

    return prompts[int(torch.randint(len(prompts), (), generator=generator))]


def _make_dropout(generator: "torch.Generator") -> "Callable[[torch.Tensor], torch.Tensor]":
    """Return dropout whose random numbers come from a generator of the CPU, so that they are its own on any device."""
    import torch

    def drop(hidden: torch.Tensor) -> torch.Tensor:
        kept = torch.rand(hidden.shape, generator=generator) >= _DROPOUT
        return hidden * kept.to(hidden.device) / (1 - _DROPOUT)

    return drop


def _keep(hidden: "torch.Tensor") -> "torch.Tensor":
    return hidden


def _minimise(loss: "torch.Tensor", *optimisers: "torch.optim.Optimizer") -> None:
    """Take a step of each optimiser along the gradient of a loss."""
    import torch

    for optimiser in optimisers:
        optimiser.zero_grad()
    torch.autograd.backward(loss)
    for optimiser in optimisers:
        optimiser.step()


def _normalise(vectors: "torch.Tensor") -> "torch.Tensor":
    from torch.nn.functional import normalize

    return normalize(vectors, dim=-1)


def _encode_sentences(
    sentences: list[str],
    encoder: ClipEncoder,
    work: Path,
    on_encoded: Callable[[int, int], None],
    on_saved: Callable[[Path], object],
) -> npt.NDArray[np.float32]:
    """Encode sentences, float32 (M, D), in chunks that are saved: the text tower takes longer than an epoch for all."""
    parts = []
    for start in range(0, len(sentences), _CHUNK):
        chunk = sentences[start : start + _CHUNK]
        digest = hash_bytes(json.dumps([encoder.passport.to_json(), chunk]).encode())
        file = work / f"sentences-{digest[:16]}.parquet"
        try:
            part = read_features(file)
        except (FileNotFoundError, SchemaError):
            part = Features(chunk, encoder.encode_texts(chunk), encoder.passport)
            write_features(part, file)
            on_saved(file)
        parts.append(part.vectors)
        on_encoded(start + len(chunk), len(sentences))
    return np.concatenate(parts)
