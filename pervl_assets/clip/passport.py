"""The embedding passport: model, weights, preprocessing and versions that a feature vector depends on."""

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Final, Literal

Precision = Literal["fp32", "fp16", "bf16"]

DEVICES: Final = "auto, cpu, cuda or cuda:<number>"

_OLD_ENTRIES: Final = ("preprocessing_effect", "compile_failure", "torch_compile")


def is_device(name: str) -> bool:
    """Return whether this is the name of a device that a model can be put on, or `auto`."""
    return re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", name) is not None


def advise_on_precision(precision: str) -> str:
    """Return what to do about numbers that are not finite in this precision."""
    if precision == "fp32":
        return "The CLIP's weights are damaged: fetch them again, or set PERVL_CLIP_PRETRAINED to another checkpoint."
    return "Set PERVL_PRECISION=fp32 and run again; if it still happens, the CLIP's weights are damaged."


@dataclass(frozen=True)
class EmbeddingPassport:
    """Everything a feature vector depends on, except its image or text. Vectors of different passports are not mixed.

    `batch_size` and `tokens` are notes: they are recorded and not compared; the first changes last bits only. Fields
    with a default were added later. They are omitted from the JSON while unset, so older passports still compare equal.

    Attributes:
        model: open_clip's name of the model, or the name of its folder.
        architecture_sha256: Of the model's configuration and of its tokenizer's own byte-pair merges.
        weights_sha256: Of the checkpoint file.
        preprocessing: The steps of the image preprocessing, in words.
        precision: `fp32`, `fp16` or `bf16`.
        device: `cpu` or `cuda`.
        dimension: Length of a vector.
        torch: Version of torch.
        open_clip: Version of open_clip.
        pillow: Version of Pillow.
        batch_size: A note: largest number of images or texts in one forward pass.
        tokens: A note: how the learned tokens in the texts were made, as JSON; empty without tokens.
    """

    model: str
    architecture_sha256: str
    weights_sha256: str
    preprocessing: str
    precision: Precision
    device: Literal["cpu", "cuda"]
    dimension: int
    torch: str
    open_clip: str
    pillow: str
    batch_size: int | None = field(default=None, compare=False)
    tokens: str = field(default="", compare=False)

    def to_json(self) -> str:
        """Return the passport as one line of JSON."""
        defaults = {each.name: each.default for each in fields(self)}
        written = {name: value for name, value in asdict(self).items() if value != defaults[name]}
        return json.dumps(written, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "EmbeddingPassport":
        """Read a passport from JSON, also one of an earlier version that had more notes.

        Raises:
            ValueError: The text is not a passport.
        """
        content: Any = json.loads(text)
        try:
            # Until 1.0: passports stored by earlier versions. Vectors of compiled models have other last bits.
            entries = {name: value for name, value in content.items() if name not in _OLD_ENTRIES}
            entries["torch"] += " compiled" if content.get("torch_compile") else ""
            return cls(**entries)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not an embedding passport: {error}") from error

    def list_differences(self, other: "EmbeddingPassport") -> list[str]:
        """Name the entries in which two passports differ, without notes, e.g. `precision fp32 / fp16`."""
        mine, theirs = asdict(self), asdict(other)
        compared = [each.name for each in fields(self) if each.compare]
        return [f"{name} {mine[name]} / {theirs[name]}" for name in compared if mine[name] != theirs[name]]


def gather_notes(passport: EmbeddingPassport, others: Iterable[EmbeddingPassport]) -> EmbeddingPassport:
    """Return a passport with the largest batch size of several equal ones."""
    sizes = [each.batch_size for each in (passport, *others) if each.batch_size is not None]
    return replace(passport, batch_size=max(sizes, default=None))
