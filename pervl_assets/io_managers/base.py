"""What the IO managers share: where a value stands under the data root, and how long it takes to write it.

Belongs here: the one rule from asset key and partition to path. Does not belong here: any file format.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import dagster as dg
from pydantic import PrivateAttr
from upath import UPath

from pervl_assets.core.errors import MissingInputError
from pervl_assets.core.files import explain_write_errors
from pervl_assets.io_managers.failures import show_errors

ASSETS_FOLDER: Final = "assets"

SECONDS: Final = "seconds"
"""Metadata of a materialization: how long the asset's own work took."""


def locate_value(data: Path, key: Sequence[str], extension: str, partition: str | None = None) -> Path:
    """Return where an asset's value (or its manifest) stands: `assets/<key>[/<partition>]<extension>`."""
    path = data.joinpath(ASSETS_FOLDER, *key, *([partition] if partition is not None else []))
    return path.with_name(path.name + extension)


class PervlIOManager(dg.ConfigurableIOManager, dg.UPathIOManager):
    """Base of the project's IO managers: `UPathIOManager`'s paths and partitions below `<data>/assets`.

    A subclass names its `extension` and says how a value is written to a path and read from it.

    Attributes:
        data: The data root.
    """

    data: str
    extension: ClassVar[str] = ""  # a class variable, else pydantic takes it for a field
    _base_path: UPath = PrivateAttr()

    def write(self, context: dg.OutputContext, value: Any, path: Path) -> None:
        """Write a value whole or not at all; an unchanged one rewrites nothing."""
        raise NotImplementedError

    def read(self, context: dg.InputContext, path: Path) -> Any:
        """Read a value."""
        raise NotImplementedError

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Resolve the path that `UPathIOManager` works below."""
        self._base_path = UPath(self.data) / ASSETS_FOLDER

    @show_errors()
    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write a value; where the asset told its seconds, those of writing are added.

        Raises:
            WriteError: No permission, or no space left; also for the folders that `UPathIOManager` makes by itself.
        """
        start = time.perf_counter()
        with explain_write_errors(Path(self.data)):
            super().handle_output(context, obj)
        if told := context.output_metadata.get(SECONDS):
            seconds = told.value + time.perf_counter() - start
            context.add_output_metadata({SECONDS: round(seconds, 3)})

    def dump_to_path(self, context: dg.OutputContext, obj: Any, path: UPath) -> None:
        """Write a value where `UPathIOManager` says."""
        self.write(context, obj, Path(str(path)))

    def load_from_path(self, context: dg.InputContext, path: UPath) -> Any:
        """Read a value from where `UPathIOManager` says."""
        return self.read(context, Path(str(path)))

    @show_errors()
    def load_input(self, context: dg.InputContext) -> Any:
        """Load the value.

        Raises:
            MissingInputError: It is not on disk; says which asset to materialize.
        """
        try:
            return super().load_input(context)
        except FileNotFoundError as error:
            key = context.asset_key.to_user_string()
            raise MissingInputError(
                f"The value of {key} is not on disk: {error.filename or error} does not exist.",
                advice=f"""Materialize it first: pervl materialize --select 'key:"{key}"'""",
            ) from error
