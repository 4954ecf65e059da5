"""Dagster resources made from `Settings`: the workspace (data root, profile, modes) and the CLIP encoder.

A password is not part of a resource: it is read from the environment where an archive is opened.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, cast

import dagster as dg
from pydantic import Field

from pervl_assets.archives.inputs import ArchiveSpec, RawArchive, find_archive
from pervl_assets.archives.remote_files import look_for
from pervl_assets.benchmarks.benchmark import SplitMode
from pervl_assets.clip.checkpoints import parse_encoders
from pervl_assets.clip.passport import Precision
from pervl_assets.clip.preprocessing import PreprocessingMode
from pervl_assets.core.addresses import Address, Place, is_address, parse_address
from pervl_assets.core.errors import ArchiveError
from pervl_assets.demo import DEMO_PASSWORD, RAW_NAMES, draw_raw, is_drawn, locate_mark
from pervl_assets.inversion.open_images import NamesMode
from pervl_assets.io_managers.metadata import show_errors_first
from pervl_assets.settings import Profile, Settings, check_settings, get_variable
from pervl_assets.storage import open_store
from pervl_assets.storage.store import Store
from pervl_assets.training.modes import ModeName

if TYPE_CHECKING:
    from pervl_assets.clip.encoder import ClipEncoder
    from pervl_assets.clip.passport import EmbeddingPassport

ANNOTATIONS: Final = Path(__file__).parents[1] / "annotations"
"""Manifest of the official inputs and annotations of the demo data: a link in a checkout, a folder in a wheel."""


def from_setting(name: str) -> Any:
    """Return the field of a resource that holds a setting: its description, and its default where that is one value."""
    field = Settings.model_fields[name]
    return Field(
        default=... if field.default_factory else field.default,
        description=f"{field.description} ({get_variable(name)})",
        json_schema_extra={"setting": name},
    )


class SettingsResource(dg.ConfigurableResource[Any]):
    """A resource with fields made by `from_setting`."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the resource with the values of its settings, paths as text."""
        values = {name: getattr(settings, setting) for name, setting in cls._name_settings().items()}
        places = {name: str(value) for name, value in values.items() if isinstance(value, Path | Address)}
        return cls(**{**values, **places})

    def setup_for_execution(self, _: dg.InitResourceContext) -> None:
        """Check the values: the config of a run may have others than the environment.

        Raises:
            PervlError: Values cannot be used. All of them are named.
        """
        unset = {"workers": 0}  # no process, as tests set it
        values = {setting: getattr(self, name) for name, setting in self._name_settings().items()}
        with show_errors_first():
            check_settings(
                {name: value for name, value in values.items() if value not in (None, "", unset.get(name))},
                "run's config",
                "Correct or remove these values, and launch again.",
            )

    @classmethod
    def _name_settings(cls) -> dict[str, str]:
        """Return the setting of each field."""
        return {
            name: cast("str", field.json_schema_extra["setting"])
            for name, field in cls.model_fields.items()
            if isinstance(field.json_schema_extra, dict)
        }


class Workspace(SettingsResource):
    """Paths of inputs and results, and the settings of results."""

    profile: Profile = from_setting("profile")
    data: str = from_setting("data")
    raw: str | None = from_setting("raw")
    annotations: str | None = from_setting("annotations")
    top_objects: int = from_setting("top_objects")
    openimages_names: NamesMode = from_setting("openimages_names")
    splits: SplitMode = from_setting("splits")
    repetitions: int = from_setting("repetitions")
    training_mode: ModeName = from_setting("training_mode")
    training_prompts: str | None = from_setting("training_prompts")
    training_epochs: int = from_setting("training_epochs")
    set_encoder_width: int = from_setting("set_encoder_width")
    workers: int = from_setting("workers")
    max_quarantined_share: float = from_setting("max_quarantined_share")

    @property
    def store(self) -> Store:
        """The store of the data root."""
        return open_store(self.data)

    @property
    def root(self) -> Path:
        """The data root as a folder of this machine."""
        return self.store.folder

    @property
    def raw_inputs(self) -> Place:
        """Folder or address below which raw inputs are."""
        place = self.raw or self.data
        return parse_address(place) if is_address(place) else Path(place)

    @property
    def annotations_folder(self) -> Path:
        """Folder of the annotations: the user's own, the demo's, or the one that official files are fetched into."""
        if self.annotations:
            return Path(self.annotations)
        return ANNOTATIONS / "demo" if self.profile == "demo" else self.root / "assets" / "annotations"

    def find_raw(self, spec: ArchiveSpec) -> RawArchive:
        """Find a raw input. In the demo profile draw it first if it is missing and part of the demo data.

        Where `PERVL_RAW` is set, nothing is drawn. The store keeps what was drawn or downloaded.

        Raises:
            MissingInputError: It is missing. The error names its source, its path and its licence.
            ArchiveError: It is unsafe or unreadable, or is synthetic in the full profile.
            AddressError: Its address cannot be read.
        """
        if self.raw is None and not self.store.holds_input(spec.file):
            if self.profile == "demo" and spec.name in RAW_NAMES:
                draw_raw(spec.name, self.root)
            self.store.keep_input(self.root / spec.file, locate_mark(spec.name, self.root))
        archive = find_archive(spec, self.root, self.raw_inputs)
        if self.profile == "full" and self._is_drawn(spec, archive.path):
            raise ArchiveError(
                f"{archive.path} is synthetic: it was made for the demo, and the profile is full.",
                details=[f"the official one: {spec.homepage}"],
                advice="Set PERVL_DATA to a folder of its own for the full profile, or put the official file there. "
                "For the demo, set PERVL_PROFILE=demo.",
            )
        return archive

    def _is_drawn(self, spec: ArchiveSpec, place: Place) -> bool:
        """Return whether a raw input is synthetic: by its bytes, or in a bucket by its size."""
        if isinstance(place, Path):
            return is_drawn(spec.name, place, self.root)
        mark = locate_mark(spec.name, self.root)
        if self.raw is not None or not self.store.pull_file(mark):
            return False
        version = look_for(place)
        return version is not None and mark.read_text().startswith(f"{version.bytes} ")

    def read_password(self, spec: ArchiveSpec) -> str | None:
        """Return the password of an archive: of a synthetic one its own, else the environment variable's."""
        if spec.password_variable is None:
            return None
        if self.raw is None and self._is_drawn(spec, self.raw_inputs / spec.file):
            return DEMO_PASSWORD
        return os.environ.get(spec.password_variable) or (DEMO_PASSWORD if self.profile == "demo" else None)


class Clip(SettingsResource):
    """The CLIP model that encodes images and names."""

    model: str = from_setting("clip_model")
    pretrained: str = from_setting("clip_pretrained")
    encoders: str = from_setting("encoders")
    device: str = from_setting("device")
    precision: str | None = from_setting("precision")
    preprocessing: PreprocessingMode = from_setting("preprocessing")
    batch_size: int | None = from_setting("batch_size")

    def describe(self, encoder: str | None = None) -> "EmbeddingPassport":
        """Return the passport of an encoder without loading it. None is the default encoder."""
        from pervl_assets.clip.encoder import describe_encoder

        return describe_encoder(*self._choose(encoder))

    def load(self, encoder: str | None = None) -> "ClipEncoder":
        """Load an encoder onto its device, unless this process loaded it last. None is the default encoder."""
        from pervl_assets.clip.encoder import reuse_encoder

        return reuse_encoder(*self._choose(encoder))

    def as_published(self) -> Self:
        """Return the same encoders, with images prepared as each model was published: those of the evaluation."""
        return type(self)(**{**self.model_dump(), "preprocessing": "model"})

    def _choose(self, encoder: str | None) -> "tuple[str, str, str, Precision | None, PreprocessingMode]":
        precision = cast("Precision | None", self.precision)  # Dagster 1.13 supports no optional Literal
        if encoder is None:
            return self.model, self.pretrained, self.device, precision, self.preprocessing
        return *parse_encoders(self.encoders)[encoder], self.device, precision, "model"
