"""The embedding passport: what a feature vector depends on beside its image or text.

Belongs here: its entries, its form on disk, and comparing two. Does not belong here: issuing one, which is
`clip_encoder`'s.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Literal

from pervl_assets.settings import Precision


@dataclass(frozen=True)
class EmbeddingPassport:
    """What a feature vector depends on beside its image or text; vectors of different passports do not mix.

    The last three entries are notes: what was seen when the encoder ran. They are recorded and not compared: they
    follow from the machine, or change last bits only, and are not known before a model is loaded. An entry that has a
    default came later than the others; while it has it, it is not written, so that passports stored before it existed
    are equal to today's.

    Attributes:
        model: open_clip's name of the model, or the name of its folder.
        architecture_sha256: Of the model's configuration, and of its own byte-pair merges.
        weights_sha256: Of the checkpoint file.
        preprocessing: What is done to an image, in words.
        precision: `fp32`, `fp16` or `bf16`.
        device: `cpu` or `cuda`.
        dimension: Length of a vector.
        torch: Version of torch.
        open_clip: Version of open_clip.
        pillow: Version of Pillow.
        torch_compile: Whether the image tower was to be compiled, which changes the last bits of its vectors.
        preprocessing_effect: A note: the largest 1 - cosine between vectors of drawn images prepared by this rule and
            by upstream's, rounded up to one digit; None where the rule gives upstream's pixels, or is not meant to.
        compile_failure: A note: why the image tower was not compiled although it was to be.
        batch_size: A note: how many images or texts were given to the encoder at once, at most.
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
    torch_compile: bool = False
    preprocessing_effect: float | None = field(default=None, compare=False)
    compile_failure: str | None = field(default=None, compare=False)
    batch_size: int | None = field(default=None, compare=False)

    def to_json(self) -> str:
        """Return the passport as one line of JSON."""
        defaults = {each.name: each.default for each in fields(self)}
        said = {name: value for name, value in asdict(self).items() if value != defaults[name]}
        return json.dumps(said, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "EmbeddingPassport":
        """Read a passport from JSON.

        Raises:
            ValueError: The text is not a passport of this version of the project.
        """
        content = json.loads(text)
        try:
            return cls(**content)
        except TypeError as error:
            raise ValueError(f"not an embedding passport: {error}") from error

    def list_differences(self, other: "EmbeddingPassport") -> list[str]:
        """Name the entries in which two passports differ, notes apart: `precision fp32 / fp16`."""
        mine, theirs = asdict(self), asdict(other)
        compared = [each.name for each in fields(self) if each.compare]
        return [f"{name} {mine[name]} / {theirs[name]}" for name in compared if mine[name] != theirs[name]]


def gather_notes(passport: EmbeddingPassport, others: Iterable[EmbeddingPassport]) -> EmbeddingPassport:
    """Return a passport with the notes of equal ones: the largest effect and batch, and the first failure."""
    known = [passport, *others]
    effects = [each.preprocessing_effect for each in known if each.preprocessing_effect is not None]
    failures = (each.compile_failure for each in known if each.compile_failure)
    batches = [each.batch_size for each in known if each.batch_size is not None]
    return replace(
        passport,
        preprocessing_effect=max(effects, default=None),
        compile_failure=next(failures, None),
        batch_size=max(batches, default=None),
    )
