"""Raw inputs: nothing is copied; the path and the identity card (size, member count, sha256) are kept as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import dagster as dg
from pydantic import TypeAdapter

from pervl_assets.archives.inputs import INDEX_EXTENSION, IdentityCard, RawArchive, identify, identify_contents
from pervl_assets.core.errors import ArchiveError, MissingInputError
from pervl_assets.core.files import VerifyResult, explain_read_errors, write_bytes_atomically
from pervl_assets.io_managers.base import PervlIOManager, mark_changed
from pervl_assets.io_managers.metadata import BYTES, FILES, show_errors

_STORED: Final = TypeAdapter(RawArchive)


class RawArchiveIOManager(PervlIOManager):
    """Keeps the path of a raw input and its identity card; never its bytes."""

    key = "raw_archives"
    kind = "raw_archive"
    extension = ".json"

    def write(self, context: dg.OutputContext, value: RawArchive, path: Path) -> None:
        """Write the path and the card; an unchanged card rewrites nothing."""
        plain = {**asdict(value), "path": str(value.path)}
        del plain["index"]
        write_bytes_atomically(path, json.dumps(plain, indent=1, sort_keys=True).encode() + b"\n")

    def load(self, path: Path) -> RawArchive:
        """Read the card; the input itself is not opened."""
        return replace(_STORED.validate_json(path.read_bytes()), index=path.with_suffix(INDEX_EXTENSION))

    def read(self, key: dg.AssetKey, partition: str | None = None) -> RawArchive:
        """Read the card back, and compare the input with it: by its listing where it was unzipped, when it is opened.

        Raises:
            MissingInputError: The input is gone, or is another than its card describes.
            SchemaError: The card is damaged.
            ArchiveError: The input cannot be read.
        """
        archive: RawArchive = super().read(key, partition)
        name, path = key.to_user_string(), self.locate(key, partition)
        advice = f"""Materialize it again: pervl materialize --select 'key:"{name}"+'"""
        if not archive.path.exists():
            raise MissingInputError(f"The input {name} was at {archive.path} and is gone.", advice=advice)
        if not archive.prefix and _identify_again(archive) != archive.card:
            mark_changed(path)
            now = f"{archive.path.stat().st_size:,} bytes now, " if archive.path.is_file() else ""
            raise MissingInputError(
                f"The input {name} at {archive.path} has changed: {now}{archive.card.bytes:,} bytes when its identity "
                "card was taken.",
                advice=advice,
            )
        return archive

    @show_errors()
    def handle_output(self, context: dg.OutputContext, obj: RawArchive) -> None:
        """Write the card, and record the stamp of the input that it was taken from.

        Raises:
            ArchiveError: The input was replaced in between.
        """
        super().handle_output(context, obj)
        if not self.verify(context.asset_key).unchanged:
            raise ArchiveError(
                f"{obj.path} was replaced or changed while its identity card was taken.",
                advice="Wait until it is whole, and materialize its raw asset again.",
            )

    def list_parts(self, path: Path) -> list[Path]:
        """Return the input."""
        return [self.load(path).path]

    def compare(self, path: Path) -> VerifyResult:
        """Take the identity card again and compare it; of a zip this reads its directory, not its members."""
        archive = self.load(path)
        shown = self.store.name(archive.path)
        if not archive.path.exists():
            return VerifyResult(archive.card.members, missing=[shown])
        try:
            card = _identify_again(archive)
        except ArchiveError:  # an unsafe or damaged zip
            return VerifyResult(1, changed=[shown])
        changed = [] if card == archive.card else [shown]
        return VerifyResult(1 if card.kind != "folder" else card.members, card.bytes, changed=changed)

    @staticmethod
    def describe(
        archive: RawArchive, *, checks: Sequence[dg.AssetCheckResult] = (), **more: Any
    ) -> dg.MaterializeResult[RawArchive]:
        """Materialize a raw input: its identity card as metadata, the card's hash as data version."""
        card = archive.card
        return dg.MaterializeResult(
            value=archive,
            data_version=dg.DataVersion(card.sha256[:16]),
            metadata={
                BYTES: card.bytes,
                FILES: card.members,
                "kind": card.kind,
                "encrypted": card.encrypted,
                "identity_sha256": card.sha256,
                "input": dg.MetadataValue.path(str(archive.path)),
                **more,
            },
            check_results=checks,
        )


def _identify_again(archive: RawArchive) -> IdentityCard:
    """Take the identity card of an input again. Raises as `identify` does."""
    with explain_read_errors(archive.path):
        card = identify(archive.path, archive.index)
        is_other_folder = card != archive.card and card.kind == "folder"
        return identify_contents(archive.path) if is_other_folder else card  # annotations: by their contents
