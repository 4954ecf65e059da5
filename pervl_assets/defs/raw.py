"""The raw inputs as assets (identified, never copied), and the annotations, compared with their manifest."""

from collections.abc import Iterator
from typing import cast

import dagster as dg

from pervl_assets.archives.inputs import ArchiveSpec, RawArchive, identify_contents, list_texts
from pervl_assets.archives.official_files import FilesReport, OfficialFiles, count_entries, load_manifest, require_files
from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.core.errors import MissingInputError
from pervl_assets.core.files import hash_file
from pervl_assets.defs.downloads import Downloads
from pervl_assets.defs.metadata import OWNERS, describe_download, make_check_result
from pervl_assets.defs.resources import ANNOTATIONS, Workspace
from pervl_assets.defs.steps import record_step
from pervl_assets.inversion.sources import ARCHIVES
from pervl_assets.io_managers.raw_archives import RawArchiveIOManager
from pervl_assets.settings import get_variable

RAW = "raw"
ANNOTATIONS_KEY = dg.AssetKey([RAW, "pervl_annotations"])


def list_specs() -> list[ArchiveSpec]:
    """Return every raw input: the benchmarks' archives, then those of the inversion side."""
    return [*(spec for benchmark in find_benchmarks() for spec in benchmark.archives), *ARCHIVES]


def build_raw_asset(spec: ArchiveSpec) -> dg.AssetsDefinition:
    """Return the asset of one raw input."""

    @dg.asset(
        name=spec.name,
        key_prefix=RAW,
        group_name=RAW,
        io_manager_key="raw_archives",
        description=f"{spec.description}\n\nFrom {spec.homepage}. Licence: {spec.licence}.",
        kinds={spec.file.rpartition(".")[2]},
        owners=OWNERS,
        code_version="1",
        metadata={"path": spec.file, "disk": spec.disk},
    )
    @record_step(uses=("profile", "raw"))
    def raw_archive(
        context: dg.AssetExecutionContext, workspace: Workspace, downloads: Downloads
    ) -> dg.MaterializeResult[RawArchive]:
        is_fetched = (
            workspace.profile == "full" and workspace.raw is None and not workspace.store.holds_input(spec.file)
        )
        fetched = downloads.fetch_input(spec, workspace.root, context.log.info) if is_fetched else None
        if fetched and fetched.stale:
            context.log.warning("%s: the earlier download is used, because %s.", spec.title, fetched.stale)
        try:
            found = workspace.find_raw(spec)
        except MissingInputError as error:
            raise _say_why_not_fetched(error, spec, workspace, downloads) from error
        return RawArchiveIOManager.describe(found, **describe_download(fetched))

    return raw_archive


def _say_why_not_fetched(
    error: MissingInputError, spec: ArchiveSpec, workspace: Workspace, downloads: Downloads
) -> MissingInputError:
    """Return the error of a missing input, with the setting because of which it was not downloaded, if one is."""
    if workspace.raw is not None:
        reason = f"nothing is downloaded or drawn, because {get_variable('raw')} is set"
        return MissingInputError(error.problem, details=[*error.details, reason], advice=error.advice)
    if spec.url is None or downloads.locate(spec) is not None or workspace.profile == "demo":
        return error
    off = get_variable("fetch")
    details = [*error.details, f"not downloaded, because {off}=off"]
    return MissingInputError(
        error.problem, details=details, advice=f"Unset {off} to have it downloaded. Or: {error.advice}"
    )


@dg.asset(
    key=ANNOTATIONS_KEY,
    group_name=RAW,
    io_manager_key="raw_archives",
    kinds={"csv"},
    owners=OWNERS,
    code_version=f"1.{hash_file(ANNOTATIONS / 'manifest.yaml')[:8]}",
    check_specs=[
        dg.AssetCheckSpec(
            "official_files",
            asset=ANNOTATIONS_KEY,
            description="Every annotation file has the sha256 of the one published at the pinned commit. A warning "
            "names the others: results from them cannot be compared with published ones.",
        )
    ],
)
@record_step(uses=("profile", "annotations"))
def pervl_annotations(
    context: dg.AssetExecutionContext, workspace: Workspace, downloads: Downloads
) -> Iterator[dg.MaterializeResult[RawArchive]]:
    """The PerVL annotations: which frames, images, concepts and captions the benchmarks are made of.

    In the full profile the official files (NVlabs/PerVLBenchmark at the commit pinned in `annotations/manifest.yaml`,
    CC-BY-NC-SA-4.0): downloaded over HTTPS unless `PERVL_ANNOTATIONS` names a folder that has them. In the demo profile
    the annotations of the demo data.
    """
    manifest = load_manifest(ANNOTATIONS / "manifest.yaml")
    folder = workspace.annotations_folder
    if workspace.annotations:
        report = require_files(folder, manifest, get_variable("annotations"))
    elif workspace.profile == "demo":
        report = FilesReport(official=(), different=(), missing=())
    else:
        folder /= manifest.commit
        workspace.store.pull_folder(folder)
        report = downloads.fetch_annotations(folder, manifest, context.log.info)
        workspace.store.push_folder(folder)
    yield RawArchiveIOManager.describe(
        RawArchive(folder, identify_contents(folder)),
        checks=[_check_official(report, manifest, demo=workspace.profile == "demo" and not workspace.annotations)],
        rows={name: count for name in list_texts(folder) if (count := count_entries(folder / name)) is not None},
    )


def _check_official(report: FilesReport, manifest: OfficialFiles, *, demo: bool) -> dg.AssetCheckResult:
    """Check which annotation files are the published ones."""
    if demo:
        text = "The demo data has annotations of its own, not the official ones."
    elif report.different:
        text = (
            f"{len(report.different)} of {len(manifest.files)} files not those of {manifest.repository} at "
            f"{manifest.commit[:7]}: {', '.join(report.different)}."
        )
    else:
        text = f"Each of {len(manifest.files)} files is that of {manifest.repository} at {manifest.commit[:7]}."
    official, different = len(report.official), len(report.different)
    return make_check_result("official_files", not different, text, official=official, different=different)


def find_annotations(data: str) -> RawArchive | None:
    """Return the annotations that `raw/pervl_annotations` recorded, or None if it is not materialized."""
    return cast("RawArchive | None", RawArchiveIOManager(data=data).read_previous(ANNOTATIONS_KEY))
