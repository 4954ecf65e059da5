"""What a run is given beside its inputs: the workspace (where things are, which profile) and the CLIP encoder.

Belongs here: Dagster resources made from `Settings`. The archive's password is not one of them: it is read from the
environment at the moment an archive is opened, so that no configuration, event or log ever holds it.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import dagster as dg
from pydantic import Field

from pervl_assets.archives.inputs import ArchiveSpec, RawArchive, find_archive
from pervl_assets.clip.passport import Precision
from pervl_assets.clip.preprocessing import PreprocessingRule
from pervl_assets.demo import DEMO_PASSWORD, RAW_NAMES, draw_raw
from pervl_assets.settings import NamesRule, Profile, Settings, SplitRule

if TYPE_CHECKING:
    from pervl_assets.clip.encoder import ClipEncoder
    from pervl_assets.clip.passport import EmbeddingPassport

PROJECT_ROOT = Path(__file__).parents[2]
ANNOTATIONS = PROJECT_ROOT / "annotations"


class Workspace(dg.ConfigurableResource[Any]):
    """Where inputs and results are, and whether the inputs are drawn or official."""

    profile: Profile = Field(description="demo: raw inputs are drawn; full: the official archives (PERVL_PROFILE)")
    data: str = Field(description="root of raw inputs and results (PERVL_DATA)")
    annotations: str | None = Field(
        default=None, description="folder of annotations of your own; none: the profile's (PERVL_ANNOTATIONS)"
    )
    top_objects: int = Field(description="how many of the most common objects are classes (PERVL_TOP_OBJECTS)")
    openimages_names: NamesRule = Field(description="csv or upstream: how names are read (PERVL_OPENIMAGES_NAMES)")
    splits: SplitRule = Field(
        default="official", description="official, or scene_disjoint where a benchmark has such splits (PERVL_SPLITS)"
    )
    workers: int = Field(
        default_factory=lambda: os.cpu_count() or 1, description="worker processes for reading and decoding"
    )

    @classmethod
    def from_settings(cls, settings: Settings) -> "Workspace":
        """Take over what the environment says."""
        return cls(
            profile=settings.profile,
            data=str(settings.data),
            annotations=str(settings.annotations) if settings.annotations else None,
            top_objects=settings.top_objects,
            openimages_names=settings.openimages_names,
            splits=settings.splits,
        )

    @property
    def root(self) -> Path:
        """The data root."""
        return Path(self.data)

    @property
    def annotations_folder(self) -> Path:
        """Folder of the annotations: the user's own, the demo's, or the one that official files are fetched into."""
        if self.annotations:
            return Path(self.annotations)
        return ANNOTATIONS / "demo" if self.profile == "demo" else self.root / "assets" / "annotations"

    def find_raw(self, spec: ArchiveSpec) -> RawArchive:
        """Find a raw input; in the demo profile draw it first where it is missing and the miniature world has it.

        Raises:
            MissingInputError: It is missing: says where to get it, where to put it, and its licence.
        """
        if self.profile == "demo" and spec.name in RAW_NAMES:
            draw_raw(spec.name, self.root)
        return find_archive(spec, self.root)

    def read_password(self, spec: ArchiveSpec) -> str | None:
        """Return the password for an archive from its environment variable, None where there is none."""
        if spec.password_variable is None:
            return None
        return os.environ.get(spec.password_variable) or (DEMO_PASSWORD if self.profile == "demo" else None)


class Clip(dg.ConfigurableResource[Any]):
    """The CLIP model that encodes pictures and names."""

    model: str = Field(description="open_clip model name, or a folder in open_clip's layout (PERVL_CLIP_MODEL)")
    pretrained: str = Field(description="pretrained tag or path of a checkpoint (PERVL_CLIP_PRETRAINED)")
    device: str = Field(default="auto", description="auto, cpu, cuda or cuda:n (PERVL_DEVICE)")
    precision: str | None = Field(
        default=None, description="fp32, fp16, bf16; none: fp16 on CUDA, fp32 elsewhere (PERVL_PRECISION)"
    )
    preprocessing: PreprocessingRule = Field(
        default="upstream",
        description="upstream, or model: as the model was published (PERVL_PREPROCESSING)",
    )
    batch_size: int | None = Field(default=None, description="images encoded at once; none: 32 on a CPU, 64 on CUDA")

    @classmethod
    def from_settings(cls, settings: Settings) -> "Clip":
        """Take over what the environment says."""
        return cls(
            model=settings.clip_model,
            pretrained=settings.clip_pretrained,
            device=settings.device,
            precision=settings.precision,
            preprocessing=settings.preprocessing,
        )

    def describe(self) -> "EmbeddingPassport":
        """Return what features of this model depend on, without loading it."""
        from pervl_assets.clip.encoder import describe_encoder

        return describe_encoder(*self._choose())

    def load(self) -> "ClipEncoder":
        """Load the model onto its device, unless this process has loaded it last."""
        from pervl_assets.clip.encoder import reuse_encoder

        return reuse_encoder(*self._choose())

    def _choose(self) -> "tuple[str, str, str, Precision | None, PreprocessingRule]":
        precision = cast("Precision | None", self.precision)  # Dagster 1.13 knows no optional Literal
        return self.model, self.pretrained, self.device, precision, self.preprocessing
