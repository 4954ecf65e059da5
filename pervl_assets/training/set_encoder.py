"""PALAVRA's inversion model: the set encoder f_theta, and the alignment A of text features with image features.

Written from the paper (arXiv 2204.01694, section 4). The parameters are one flat mapping with PALAVRA's names, and both
models are functions of it. torch is imported inside functions only.
"""

import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from pervl_assets.clip.passport import EmbeddingPassport
from pervl_assets.core.checks import CheckResult
from pervl_assets.core.errors import SchemaError, name_some
from pervl_assets.core.files import hash_bytes, write_bytes_atomically
from pervl_assets.core.tables import Column, TableSchema, hash_frame

if TYPE_CHECKING:
    import torch

CURVES: Final = TableSchema(
    (
        Column("epoch", pl.Int32, "Epoch from 1"),
        Column("phase", pl.String, "image: sets of image features; text: sets of aligned text features; test"),
        Column("cycle", pl.Float64, "Cycle loss, mean over batches"),
        Column("ground_truth", pl.Float64, "Ground-truth loss 2 - 2 cos, mean over batches, without its weight"),
        Column(
            "alignment", pl.Float64, "Loss of the alignment, mean over batches; null where it has no step of its own"
        ),
        Column("accuracy", pl.Float64, "Share of classes of the first batch whose query is nearest to its own target"),
    )
)

ALIGNMENT: Final = ("layers.0.weight", "layers.0.bias")
"""The parameters of A; all others are those of f_theta."""

_LAYERS: Final = ("phi.0", "phi.2", "phi.4")
HEADER: Final = "pervl_set_encoder"
"""Key of a safetensors file's metadata: one entry, because safetensors writes several in any order."""

_LARGEST_HEADER: Final = 100_000_000
"""Bytes, as in safetensors."""

_REPAIR: Final = "Delete the file and materialize its asset again."


def list_shapes(dimension: int, width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all parameters by name: those of f_theta, then those of A (`ALIGNMENT`).

    Args:
        dimension: Length D of CLIP's feature vectors.
        width: Length W of a token.
        hidden: Units H of the hidden layers; 4096 in PALAVRA.
    """
    inputs = dict(zip(_LAYERS, (dimension, hidden, hidden), strict=True))
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, size in inputs.items():
        shapes |= {f"{layer}.Gamma.weight": (hidden, size), f"{layer}.Gamma.bias": (hidden,)}
        shapes |= {f"{layer}.Lambda.weight": (hidden, size)}
    shapes |= {"ro.1.weight": (hidden, hidden), "ro.1.bias": (hidden,)}
    shapes |= {"ro.4.weight": (width, hidden), "ro.4.bias": (width,)}
    return shapes | dict(zip(ALIGNMENT, ((dimension, dimension), (dimension,)), strict=True))


def run_set_encoder(
    weights: "Mapping[str, torch.Tensor]",
    sets: "torch.Tensor",
    dropout: "Callable[[torch.Tensor], torch.Tensor]" = lambda hidden: hidden,
) -> "torch.Tensor":
    """Predict tokens from sets of feature vectors, by f_theta.

    Args:
        weights: Parameters by name.
        sets: L2-normalised vectors (C, K, D); their order within a set does not matter.
        dropout: Applied before both layers behind the mean over the set; by default none, as in evaluation.

    Returns:
        Tokens (C, W), not normalised.
    """
    from torch.nn.functional import elu, linear

    for layer in _LAYERS:
        shared = linear(sets.mean(dim=1, keepdim=True), weights[f"{layer}.Lambda.weight"])
        sets = elu(linear(sets, weights[f"{layer}.Gamma.weight"], weights[f"{layer}.Gamma.bias"]) - shared)
    hidden = elu(linear(dropout(sets.mean(dim=1)), weights["ro.1.weight"], weights["ro.1.bias"]))
    return linear(dropout(hidden), weights["ro.4.weight"], weights["ro.4.bias"])


def run_alignment(weights: "Mapping[str, torch.Tensor]", vectors: "torch.Tensor") -> "torch.Tensor":
    """Map text features (…, D) towards image features, by A: a linear layer beside the identity."""
    from torch.nn.functional import linear

    return vectors + linear(vectors, *(weights[name] for name in ALIGNMENT))


@dataclass(frozen=True)
class TrainingPassport:
    """Everything that the weights depend on.

    Attributes:
        mode: Name of the training mode.
        code: Version of the training's code.
        seed: Number of the repetition, from 1.
        epochs: Number of epochs.
        hidden: Units of the hidden layers.
        encoder: Passport of the CLIP, with the versions of its libraries and its device.
        inputs_sha256: Of the training data.
        prompts_sha256: Of the prompts of `PERVL_TRAINING_PROMPTS`; empty: those of this package.
        classes: Object classes that are trained.
        lost_images: Images that have no features.
        preprocessing: How the images were prepared, in words.
        names: How OpenImages names were read, `PERVL_OPENIMAGES_NAMES`.
        width: A note, as it follows from the CLIP: length of a token; 0 until the CLIP is loaded.
    """

    mode: str
    code: str
    seed: int
    epochs: int
    hidden: int
    encoder: EmbeddingPassport
    inputs_sha256: str
    prompts_sha256: str = ""
    classes: int = 0
    lost_images: int = 0
    preprocessing: str = ""
    names: str = ""
    width: int = field(default=0, compare=False)

    def to_json(self) -> str:
        """Return the passport as one line of JSON."""
        return json.dumps({**asdict(self), "encoder": json.loads(self.encoder.to_json())}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "TrainingPassport":
        """Read a passport from JSON; raises ValueError or TypeError if it is none."""
        content: dict[str, Any] = json.loads(text)
        encoder = EmbeddingPassport.from_json(json.dumps(content.pop("encoder", None)))
        return cls(encoder=encoder, **content)


@dataclass(frozen=True, eq=False)
class TrainedSetEncoder:
    """A trained f_theta with its A.

    Attributes:
        weights: Float32 arrays by the names of `list_shapes`.
        passport: Everything that they depend on.
        curves: Losses of every epoch, as `CURVES`.

    Raises:
        SchemaError: The weights have other names, types or shapes than the passport says.
    """

    weights: Mapping[str, npt.NDArray[np.float32]]
    passport: TrainingPassport
    curves: pl.DataFrame

    def __post_init__(self) -> None:
        expected = list_shapes(self.passport.encoder.dimension, self.passport.width, self.passport.hidden)
        found = {name: array.shape for name, array in self.weights.items() if array.dtype == np.float32}
        wrong = [name for name in {**expected, **self.weights} if expected.get(name) != found.get(name, ())]
        if wrong:
            raise SchemaError(
                f"{len(wrong)} of {len(expected)} parameters of a set encoder missing, unexpected, or not float32 "
                f"of their shape: {name_some(wrong)}.",
                advice="Train it again with the package that reads it.",
            )
        CURVES.validate(self.curves, "curves")

    def hash(self) -> str:
        """Return a sha256 of weights, passport and curves."""
        return self._hash

    @functools.cached_property
    def _hash(self) -> str:
        arrays = (hash_bytes(np.ascontiguousarray(self.weights[name]).data.cast("B")) for name in sorted(self.weights))
        return hash_bytes("\n".join([*arrays, self.passport.to_json(), hash_frame(self.curves)]).encode())


def check_weights(trained: TrainedSetEncoder) -> CheckResult:
    """Check that all parameters are finite numbers."""
    wrong = {name: int((~np.isfinite(array)).sum()) for name, array in trained.weights.items()}
    total, broken = sum(array.size for array in trained.weights.values()), sum(wrong.values())
    text = f"{broken:,} of {total:,} parameters not finite"
    if broken:
        text += f", in {name_some([name for name, count in wrong.items() if count])}"
    return CheckResult(not broken, text, {"parameters": total, "not_finite": broken})


def check_curves(curves: pl.DataFrame) -> CheckResult:
    """Check that the cycle loss of sets of images fell: of the last tenth of the epochs below that of the first."""
    losses = curves.filter(phase="image")["cycle"]
    part = -(-len(losses) // 10)
    first, last = (float(one.mean() or 0.0) for one in (losses.head(part), losses.tail(part)))  # type: ignore[arg-type]
    text = f"the cycle loss of sets of images was {first:.3f} in the first {part:,} epochs and {last:.3f} in the last"
    return CheckResult(last < first, text, {"first_loss": first, "last_loss": last, "epochs": len(losses)})


def predict_tokens(trained: TrainedSetEncoder, sets: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Predict the token of every concept from its few-shot features, on the CPU.

    Args:
        trained: f_theta.
        sets: Image features, float32 (C, K, D); they are normalised here.

    Returns:
        Tokens, float32 (C, W).
    """
    import torch
    from torch.nn.functional import normalize

    with torch.inference_mode():
        unit = normalize(torch.from_numpy(np.array(sets)), dim=-1)
        tokens: npt.NDArray[np.float32] = run_set_encoder(_load_weights(trained), unit).numpy()
    return tokens


def align(trained: TrainedSetEncoder, vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Map text features, float32 (N, D), towards image features by A, on the CPU. Nothing is normalised."""
    import torch

    with torch.inference_mode():
        texts = torch.from_numpy(np.array(vectors))
        aligned: npt.NDArray[np.float32] = run_alignment(_load_weights(trained), texts).numpy()
    return aligned


def _load_weights(trained: TrainedSetEncoder) -> "dict[str, torch.Tensor]":
    import torch

    return {name: torch.from_numpy(np.array(array)) for name, array in trained.weights.items()}


def write_set_encoder(trained: TrainedSetEncoder, path: Path) -> None:
    """Write a set encoder as safetensors, with passport and curves in its header, whole or not at all.

    Raises:
        WriteError: No permission, or no space left.
    """
    from safetensors.numpy import save

    header = {
        "passport": trained.passport.to_json(),
        "curves": trained.curves.to_dicts(),
        "sha256": trained.hash(),
    }
    write_bytes_atomically(path, save(dict(trained.weights), {HEADER: json.dumps(header)}))


def read_curves(path: Path) -> pl.DataFrame:
    """Read the losses of a set encoder's file, as `CURVES`; no weight is read.

    Raises:
        OSError: The file does not exist, or cannot be read.
        SchemaError: It is damaged.
    """
    return _read_description(path)[1]


def _read_description(path: Path) -> tuple[TrainingPassport, pl.DataFrame]:
    """Return passport and curves of a set encoder's file."""
    with path.open("rb") as file:
        length = file.read(8)
        data = length + file.read(min(int.from_bytes(length, "little"), _LARGEST_HEADER))
    try:
        header = read_header(data)
        return TrainingPassport.from_json(header["passport"]), pl.DataFrame(header["curves"], CURVES.to_polars())
    except (pl.exceptions.PolarsError, LookupError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise SchemaError(f"{path} has no passport of a set encoder: {error!r}.", advice=_REPAIR) from error


def read_header(data: bytes) -> dict[str, Any]:
    """Return what is stored beside the weights: the entry `HEADER` in the header of a safetensors file.

    Raises one of LookupError, ValueError, TypeError and RecursionError if there is none.
    """
    header: dict[str, Any] = json.loads(
        json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"][HEADER]
    )
    return header


def read_set_encoder(path: Path) -> TrainedSetEncoder:
    """Read a set encoder, and compare it with the hash that was written with it. No code in the file runs.

    A file that is larger than its passport says is not read. Python reads the bytes: a file that is mapped into memory
    ends the process if it becomes shorter meanwhile.

    Raises:
        OSError: The file does not exist, or cannot be read.
        SchemaError: It is damaged, or does not hold the set encoder that was written to it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    (passport, curves), size = _read_description(path), path.stat().st_size
    try:
        shapes = list_shapes(passport.encoder.dimension, passport.width, passport.hidden)
        if size > _LARGEST_HEADER + 4 * sum(map(math.prod, shapes.values())):
            raise ValueError(f"{size:,} bytes")
        weights, header = load(data := path.read_bytes()), read_header(data)
        trained = TrainedSetEncoder(weights, passport, curves)
        whole = header["sha256"] == trained.hash()
    except (SafetensorError, pl.exceptions.PolarsError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise SchemaError(
            f"{path} does not hold a set encoder with its passport: {error!r}.", advice=_REPAIR
        ) from error
    if not whole or not all(np.isfinite(array).all() for array in weights.values()):
        raise SchemaError(f"{path} does not hold the set encoder that was written to it.", advice=_REPAIR)
    return trained
