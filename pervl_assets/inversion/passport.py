"""The embedding passport: what a feature vector depends on beside its image or text.

Belongs here: its entries, its form on disk, and comparing two. Does not belong here: issuing one, which is
`clip_encoder`'s.
"""

import json
from dataclasses import asdict, dataclass
from typing import Literal

from pervl_assets.core.settings import Precision


@dataclass(frozen=True)
class EmbeddingPassport:
    """What a feature vector depends on beside its image or text; vectors of different passports do not mix.

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

    def to_json(self) -> str:
        """Return the passport as one line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

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
        """Name the entries in which two passports differ: `precision fp32 / fp16`."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{name} {mine[name]} / {theirs[name]}" for name in mine if mine[name] != theirs[name]]
