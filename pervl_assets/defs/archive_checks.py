"""The check of a raw archive: is it the official one, another with all members that are named, or does it lack some?

Belongs here: finding the named members, and showing the verdict. Does not belong here: the verdict itself, which is
`core.verdicts`.
"""

import json
from pathlib import Path
from typing import Final

import dagster as dg
import polars as pl

from pervl_assets.archives.inputs import ArchiveSpec, RawArchive
from pervl_assets.archives.known_archives import ArchiveReport, KnownArchive, inspect_archive, load_known_archives
from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.benchmarks.benchmark import Benchmark, name_members
from pervl_assets.defs.metadata import make_check_result
from pervl_assets.defs.raw import ANNOTATIONS_KEY, RAW
from pervl_assets.defs.resources import ANNOTATIONS, Workspace
from pervl_assets.inversion.sources import ARCHIVES
from pervl_assets.io_managers.base import locate_value

KNOWN_ARCHIVE: Final = "known_archive"


def build_archive_checks() -> list[dg.AssetChecksDefinition]:
    """Return the check of every zip archive: of the benchmarks, with the members that their annotations name."""
    specs = [(spec, benchmark) for benchmark in find_benchmarks() for spec in benchmark.archives]
    zips = [spec for spec in ARCHIVES if spec.file.endswith(".zip")]
    return [build_archive_check(*pair) for pair in specs] + [build_archive_check(spec) for spec in zips]


def build_archive_check(spec: ArchiveSpec, benchmark: Benchmark | None = None) -> dg.AssetChecksDefinition:
    """Return the check of one archive, and of the members that a benchmark's annotations name, if it is one's."""

    @dg.asset_check(
        asset=dg.AssetKey([RAW, spec.name]),
        name=KNOWN_ARCHIVE,
        # Only run after it: the annotations are looked for where they are, for the archive may be looked at without.
        additional_deps=[ANNOTATIONS_KEY],
        description="The archive holds every member that the annotations name (if not: an error), and its directory is "
        "the official archive's (if not, or if that is not known: a warning). Reads the directory only: a second for "
        "10 GB, and no password.",
    )
    def known_archive(workspace: Workspace, archive: RawArchive) -> dg.AssetCheckResult:
        known = load_known_archives(ANNOTATIONS / "manifest.yaml")
        folder = find_annotations(workspace.root)
        needed = name_members(benchmark, spec.name, folder / benchmark.name) if benchmark and folder else set()
        verdict = inspect_archive(archive.path, known.get(spec.name, KnownArchive(())), needed, archive.prefix)
        return report_archive(verdict, drawn=workspace.profile == "demo", annotated=folder is not None)

    return known_archive


def find_annotations(root: Path) -> Path | None:
    """Return the annotations' folder as `raw/pervl_annotations` was materialized; None: it has not been."""
    card = locate_value(root, ANNOTATIONS_KEY.path, ".json")
    return RawArchive.from_json(json.loads(card.read_bytes())).path if card.is_file() else None


def report_archive(verdict: ArchiveReport, *, drawn: bool, annotated: bool) -> dg.AssetCheckResult:
    """Return a verdict as the result of an asset check.

    Args:
        verdict: The verdict.
        drawn: Whether the archive is the miniature world's, which is not meant to be official.
        annotated: Whether there were annotations to name members.
    """
    is_error = verdict.state in ("lacking", "truncated")
    held = sum(kind.found for kind in verdict.counts)
    if drawn and not is_error:
        text = f"The miniature world's own: it holds all {verdict.needed:,} members that its annotations name."
        if not verdict.needed:
            text = f"The miniature world's own, with {held:,} members; no annotations name any."
    else:
        text = verdict.text if annotated else f"The annotations have not been materialized yet. {verdict.text}"
    return make_check_result(
        None,
        verdict.state == "official" or (drawn and not is_error),
        text,
        is_error=is_error,
        state=verdict.state,
        held_members=held,
        named_members=verdict.needed,
        lacking_members=len(verdict.lacking),
        lacking=pl.DataFrame({"member": verdict.lacking}, schema={"member": pl.String}),
        members=pl.DataFrame(verdict.counts),
    )
