"""Raw archives: nothing is copied; the identity card is kept as JSON and held against the file on every use.

Belongs here: writing and reading the card, and noticing that the file behind it is another one now.
"""

import json
from pathlib import Path

import dagster as dg

from pervl_assets.archives.inputs import INDEX_EXTENSION, RawArchive
from pervl_assets.core.errors import MissingInputError
from pervl_assets.core.files import write_bytes_atomically
from pervl_assets.io_managers.base import PervlIOManager


class RawArchiveIOManager(PervlIOManager):
    """Keeps where a raw input is and its identity card; never its bytes."""

    extension = ".json"

    def write(self, context: dg.OutputContext, value: RawArchive, path: Path) -> None:
        """Write the path and the card; an unchanged card rewrites nothing."""
        write_bytes_atomically(path, json.dumps(value.to_json(), indent=1, sort_keys=True).encode() + b"\n")

    def read(self, context: dg.InputContext, path: Path) -> RawArchive:
        """Read the card back.

        Raises:
            MissingInputError: The input is gone, or its size is not the one it had when its card was taken.
        """
        archive = RawArchive.from_json(json.loads(path.read_bytes()), path.with_suffix(INDEX_EXTENSION))
        key = context.asset_key.to_user_string()
        advice = f"""Materialize it again: pervl materialize --select 'key:"{key}"+'"""
        if not archive.path.exists():
            raise MissingInputError(f"The input {key} was at {archive.path} and is gone.", advice=advice)
        if archive.path.is_file() and (size := archive.path.stat().st_size) != archive.card.bytes:
            raise MissingInputError(
                f"The input {key} at {archive.path} has changed: {size:,} bytes now, {archive.card.bytes:,} when "
                "its identity card was taken.",
                advice=advice,
            )
        return archive

    def get_metadata(self, context: dg.OutputContext, obj: RawArchive) -> dict[str, dg.MetadataValue]:
        """Show where the input itself is."""
        return {"input": dg.MetadataValue.path(str(obj.path))}
