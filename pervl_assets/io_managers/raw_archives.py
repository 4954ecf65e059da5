"""Raw inputs: nothing is copied; the path and the identity card (size, member count, sha256) are kept as JSON."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path, PurePath
from typing import Any, Final

import dagster as dg
from pydantic import TypeAdapter, ValidationError

from pervl_assets.archives.inputs import INDEX_EXTENSION, IdentityCard, RawArchive, identify, identify_contents
from pervl_assets.archives.remote_files import find_version, look_for
from pervl_assets.core.addresses import Address, Place, is_address
from pervl_assets.core.errors import AddressError, ArchiveError, MissingInputError, SchemaError
from pervl_assets.core.files import VerifyResult, explain_read_errors, hash_bytes, write_bytes_atomically
from pervl_assets.io_managers.base import DAMAGE, PervlIOManager
from pervl_assets.io_managers.metadata import describe_size, show_errors
from pervl_assets.storage.store import Listing

_STORED: Final = TypeAdapter(RawArchive)
_ANNOTATIONS: Final = Path(__file__).parents[1] / "annotations"


class RawArchiveIOManager(PervlIOManager):
    """Keeps the path of a raw input and its identity card; never its bytes."""

    key = "raw_archives"
    kind = "raw_archive"
    extension = ".json"
    label = "manifest"

    def write(self, context: dg.OutputContext, value: RawArchive, path: Path) -> None:
        """Write the path and the card; an unchanged card rewrites nothing."""
        card = {name: part for name, part in asdict(value.card).items() if part is not None}
        plain = {**asdict(value), "path": self._refer(value.path), "card": card}
        del plain["index"]
        write_bytes_atomically(path, json.dumps(plain, indent=1, sort_keys=True).encode() + b"\n")

    def load(self, path: Path) -> RawArchive:
        """Read the card; the input itself is not opened."""
        try:
            archive = _STORED.validate_json(path.read_bytes())
        except ValidationError as error:  # whose text has the values, and an address may hold a password
            wrong = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_input=False)]
            problem = f"{self.store.show(path)} is damaged: {'; '.join(wrong)}."
            raise SchemaError(problem, advice="Materialize its asset again.") from None
        place = self.store.locate_input(archive.path, _list_places())
        return replace(archive, path=place, index=path.with_suffix(INDEX_EXTENSION))

    def _pull(self, archive: RawArchive) -> None:
        """Bring the input to this machine, if it is a folder of the data root."""
        if isinstance(archive.path, Path):
            self.store.pull_folder(archive.path)

    def _refer(self, place: Place) -> str:
        return str(place) if isinstance(place, Address) else self.store.name(place)

    def read(self, key: dg.AssetKey, partition: str | None = None) -> RawArchive:
        """Read the card back, and compare the input with it: by its listing where it was unzipped, when it is opened.

        Raises:
            MissingInputError: The input is gone, or is another than its card describes.
            SchemaError: The card is damaged.
            ArchiveError: The input cannot be read.
        """
        archive: RawArchive = super().read(key, partition)
        self._pull(archive)
        name, path = key.to_user_string(), self.locate(key, partition)
        advice = f"Materialize it again: pervl materialize {name}+"
        card = _identify_again(archive, is_listed=not archive.prefix)
        if card is None:
            raise MissingInputError(f"The input {name} was at {archive.path} and is gone.", advice=advice)
        if card != archive.card:
            self.store.mark_changed(path)
            now = f"{card.bytes:,} bytes now, " if card.kind != "folder" else ""
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
        """Return the input, if it is on this machine."""
        place = self.load(path).path
        return [] if isinstance(place, Address) else [place]

    def exists(self, key: dg.AssetKey, partition: str | None = None, listing: Listing | None = None) -> bool:
        """Return whether the card and the input exist."""
        return super().exists(key, partition, listing) and self._find_etag(key, partition) is not None

    def stamp(self, key: dg.AssetKey, partition: str | None = None, listing: Listing | None = None) -> str | None:
        """Return the stamp of card and input, as of the base; of an input at an address with its size and ETag."""
        stamp = super().stamp(key, partition, listing)
        etag = None if stamp is None else self._find_etag(key, partition)
        if stamp is None or etag is None:
            return None
        return hash_bytes(f"{stamp} {etag}".encode()) if etag else stamp

    def _find_etag(self, key: dg.AssetKey, partition: str | None) -> str | None:
        """Return size and ETag of an input at an address; None if it is gone; empty if it is on this machine."""
        path = self.fetch(key, partition)
        try:
            place = self.load(path).path
            return str(find_version(place)) if isinstance(place, Address) else ""
        except (OSError, *DAMAGE, MissingInputError, AddressError):
            return None

    def compare(self, path: Path) -> VerifyResult:
        """Take the identity card again and compare it; of a zip this reads its directory, not its members."""
        archive = self.load(path)
        self._pull(archive)
        shown = str(archive.path) if isinstance(archive.path, Address) else self.store.name(archive.path)
        try:
            card = _identify_again(archive)
        except ArchiveError:  # an unsafe or damaged zip
            return VerifyResult(1, changed=[shown])
        if card is None:
            return VerifyResult(archive.card.members, missing=[shown])
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
                **describe_size(card.bytes, card.members),
                "kind": card.kind,
                "encrypted": card.encrypted,
                "identity_sha256": card.sha256,
                "input": dg.MetadataValue.path(str(archive.path)),
                **more,
            },
            check_results=checks,
        )


def _list_places() -> list[PurePath]:
    """Return where inputs may be besides the data root: what this process's settings name, and the demo's annotations.

    They are of this machine, as its scratch folder, so they come from the environment.
    """
    named = filter(None, map(os.environ.get, ("PERVL_RAW", "PERVL_ANNOTATIONS")))
    return [
        _ANNOTATIONS,
        *(PurePath(text) if is_address(text) else Path(text).expanduser().absolute() for text in named),
    ]


def _identify_again(archive: RawArchive, *, is_listed: bool = True) -> IdentityCard | None:
    """Take the identity card of an input again; None if it is gone. Raises as `identify` does.

    One at an address has the same card as long as it has the same size and ETag; without `is_listed`, a folder too as
    long as it exists.
    """
    place, card = archive.path, archive.card
    if isinstance(place, Address):
        version = look_for(place)
        return card if version == (card.bytes, card.etag) else version and identify(place, archive.index)
    with explain_read_errors(place):
        if not place.exists():
            return None
        now = identify(place, archive.index) if is_listed else card
        is_other = now != card and now.kind == "folder"
        return identify_contents(place) if is_other else now  # annotations: by their contents
