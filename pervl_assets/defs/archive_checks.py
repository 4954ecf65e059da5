"""The check of a raw archive: all members that the annotations name are in it, and counts are the official ones."""

from typing import Final

import dagster as dg
import polars as pl

from pervl_assets.archives.inputs import ArchiveSpec, RawArchive, locate_local
from pervl_assets.archives.known_archives import ArchiveReport, inspect_archive
from pervl_assets.archives.official_files import KnownMembers, load_manifest
from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.benchmarks.benchmark import Benchmark, name_members
from pervl_assets.defs.metadata import make_check_result
from pervl_assets.defs.raw import ANNOTATIONS_KEY, RAW, find_annotations
from pervl_assets.defs.resources import ANNOTATIONS, Workspace
from pervl_assets.defs.steps import INPUTS, record_step
from pervl_assets.inversion.sources import ARCHIVES

_KNOWN_ARCHIVE: Final = "known_archive"
_ANY: Final = (KnownMembers(".+"),)
"""Members of an archive whose official counts are not recorded: all of them."""


def build_archive_checks() -> list[dg.AssetChecksDefinition]:
    """Return the check of every zip archive: of the benchmarks, with the members that their annotations name."""
    specs = [(spec, benchmark) for benchmark in find_benchmarks() for spec in benchmark.archives]
    zips = [spec for spec in ARCHIVES if spec.file.endswith(".zip")]
    return [_build_archive_check(*pair) for pair in specs] + [_build_archive_check(spec) for spec in zips]


def _build_archive_check(spec: ArchiveSpec, benchmark: Benchmark | None = None) -> dg.AssetChecksDefinition:
    """Return the check of one archive, and of the members that a benchmark's annotations name, if it is one's."""

    @dg.asset_check(
        asset=dg.AssetKey([RAW, spec.name]),
        name=_KNOWN_ARCHIVE,
        # For the order: the archive can be checked without annotations. Their version is recorded.
        additional_deps=[ANNOTATIONS_KEY],
        description="The archive holds every member that the annotations name (if not: an error), and as many members "
        "as the official one (if not: a warning). No hash of the official archives is recorded. Reads the directory "
        "only: a second for 10 GB, and no password.",
    )
    @record_step
    def known_archive(workspace: Workspace, archive: RawArchive) -> dg.AssetCheckResult:
        known = load_manifest(ANNOTATIONS / "manifest.yaml").archives
        annotations = find_annotations(workspace.data)
        folder = locate_local(annotations) if annotations else None
        needed = name_members(benchmark, spec.name, folder / benchmark.name) if benchmark and folder else set()
        report = inspect_archive(archive, known.get(spec.name, _ANY), needed)
        return _check_report(report, annotations, demo=workspace.profile == "demo")

    return known_archive


def _check_report(report: ArchiveReport, annotations: RawArchive | None, *, demo: bool) -> dg.AssetCheckResult:
    """Return the comparison with the official archive as the result of an asset check.

    Args:
        report: The comparison.
        annotations: The annotations that name members, if they are materialized. Their data version is recorded.
        demo: Whether the archive is the demo data's, which is not meant to be official.
    """
    held = int(report.counts["found"].sum())
    text = report.text if annotations else f"The annotations have not been materialized yet. {report.text}"
    if demo and not report.missing:
        text = f"Demo data: all {report.needed:,} members that its annotations name are among its {held:,}."
    version = annotations.card.sha256[:16] if annotations else None
    return make_check_result(
        None,
        not report.missing and (demo or not report.differs),
        text,
        is_error=bool(report.missing),
        held_members=held,
        named_members=report.needed,
        missing_members=len(report.missing),
        missing=pl.DataFrame({"member": report.missing}, schema={"member": pl.String}),
        members=report.counts,
        **{INPUTS: dg.MetadataValue.json({ANNOTATIONS_KEY.to_user_string(): version})},
    )
