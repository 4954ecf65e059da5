"""Refreshes: two schedules, a sensor on the data folder, automation conditions and freshness policies.

All of it is stopped at first: start it in the UI, or by `dagster schedule start` and `dagster sensor start`.

A change spreads by data version, which is a content hash. An unchanged input refreshes nothing, and neither does a
table whose content is unchanged.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache, reduce
from operator import or_
from pathlib import Path
from typing import Any, Final

import dagster as dg

from pervl_assets.archives.downloads import read_record
from pervl_assets.archives.inputs import ArchiveSpec
from pervl_assets.archives.remote_files import look_for
from pervl_assets.core.addresses import Address, Place
from pervl_assets.core.text import count_of
from pervl_assets.defs.downloads import locate_record
from pervl_assets.defs.pages import list_parents
from pervl_assets.defs.raw import ANNOTATIONS_KEY, RAW
from pervl_assets.defs.resources import Workspace
from pervl_assets.io_managers.base import DAMAGE
from pervl_assets.io_managers.metadata import show_errors_first
from pervl_assets.io_managers.raw_archives import RawArchiveIOManager
from pervl_assets.settings import Settings, get_variable

_WARN_BEFORE: Final = timedelta(days=1)


_Path = tuple[dg.AssetKey, ...]
"""A way up from an asset, from dependency to dependency."""

_PRESS: Final = "**Press the switch** to start it: it ships stopped."


def _build_automation_condition(
    paths: Iterable[_Path], made: Collection[dg.AssetKey], *, whole: bool
) -> dg.AutomationCondition[Any]:
    """Return the condition under which an asset is refreshed: a dependency has another data version than before.

    It waits until nothing above it will still change, so that an asset that two changes reach is made once.

    Args:
        paths: One to every asset that it descends from; all paths are far more. Dagster maps the partitions of direct
            dependencies only: an asset that is named without the path seems to have none of the right partitions.
        made: The assets that have dependencies. The others change only by a run that is in progress.
        whole: Whether it is never true while a dependency was never materialized.
    """
    condition = dg.AutomationCondition
    handled = condition.newly_requested() | condition.newly_updated()
    changed = condition.any_deps_match(condition.data_version_changed()).since(handled)
    # Not `any_deps_missing`, which has more parts: what is requested in the same evaluation is waited for anyway.
    possible = changed & ~condition.any_deps_match(condition.missing())
    busy = condition.in_progress()

    def match(parent: dg.AssetKey, further: Collection[_Path]) -> Any:
        """Return the condition that an asset at the end of a path will still change; what paths share is in it once."""
        here = [possible, busy] if parent in made else [busy]
        above = [match(*item) for item in _group(further).items()]
        return condition.asset_matches(parent, reduce(or_, (here if () in further else []) + above))

    ready: Any = (possible if whole else changed) & ~busy
    for parent, further in _group(paths).items():
        ready &= ~match(parent, further)
    labelled: dg.AutomationCondition[Any] = ready.with_label("the data of a dependency changed")
    return labelled


def _group(paths: Iterable[_Path]) -> dict[dg.AssetKey, list[_Path]]:
    """Return what remains of paths, by their first asset."""
    rests = dict[dg.AssetKey, list[_Path]]()
    for path in filter(None, paths):
        rests.setdefault(path[0], []).append(path[1:])
    return rests


def add_refreshes(
    assets: Iterable[dg.AssetsDefinition],
    specs: Iterable[ArchiveSpec],
    settings: Settings,
    partial: Collection[dg.AssetKey] = (),
) -> list[dg.AssetsDefinition]:
    """Add the automation condition to every asset that has dependencies, and a freshness policy to every public input.

    A public input must be revalidated, or its file checked, every N days. Fresh means recently checked, not newest:
    whether the content changed shows in the data version. Assets in `partial` are made from those dependencies that
    there are.
    """
    days = timedelta(days=settings.fresh_days)
    policy = dg.FreshnessPolicy.time_window(fail_window=days, warn_window=days - _WARN_BEFORE)
    public, assets = {*_list_public_inputs(specs)}, [*assets]
    known = {spec.key: spec for asset in assets for spec in asset.specs}
    made = {key for key, spec in known.items() if [*spec.deps]}

    @cache
    def find_paths(key: dg.AssetKey) -> dict[dg.AssetKey, _Path]:
        paths = dict[dg.AssetKey, _Path]()
        for parent in sorted(list_parents(known[key], known)):
            if parent in known:
                further = {above: (parent, *path) for above, path in find_paths(parent).items()}
                for above, path in ({parent: (parent,)} | further).items():
                    paths[above] = min(path, paths.get(above, path), key=len)
        return paths

    def add(spec: dg.AssetSpec) -> dg.AssetSpec:
        if spec.key in public:
            spec = spec.replace_attributes(freshness_policy=policy)
        if spec.key not in made:
            return spec
        paths = sorted(find_paths(spec.key).values())
        condition = _build_automation_condition(paths, made, whole=spec.key not in partial)
        return spec.replace_attributes(automation_condition=condition)

    return [*dg.map_asset_specs(add, assets)]


def _list_public_inputs(specs: Iterable[ArchiveSpec]) -> list[dg.AssetKey]:
    """Return the inputs that are downloaded: the annotations, and the raw inputs with a URL."""
    return [ANNOTATIONS_KEY, *(dg.AssetKey([RAW, spec.name]) for spec in specs if spec.url)]


def build_refreshes(
    settings: Settings, specs: Sequence[ArchiveSpec], verified: Iterable[dg.AssetCheckKey]
) -> dg.Definitions:
    """Return schedules, sensors and their jobs. `verified` are the checks that compare values with their manifests."""
    revalidate = dg.define_asset_job(
        "revalidate_public_inputs",
        selection=dg.AssetSelection.assets(*_list_public_inputs(specs)),
        description="Revalidate the public inputs with their servers. Download only what changed.\n\n"
        "**Press *Materialize all*** to do it now, or the switch of its schedule above to do it every week.",
    )
    verify = dg.define_asset_job(
        "verify_results",
        selection=dg.AssetSelection.checks(*verified),
        description="Read every value again and compare it with its manifest. Changes nothing.\n\n"
        "**Press *Launchpad*, then *Launch Run*** to do it now, or the switch of its schedule above to do it every "
        "night. To repair what differs, launch `everything`.",
    )
    jobs = {"revalidate": (revalidate, "weekly"), "verify": (verify, "nightly")}
    return dg.Definitions(
        jobs=[revalidate, verify],
        schedules=[
            dg.ScheduleDefinition(
                name=f"{job.name}_{how_often}",
                job=job,
                cron_schedule=getattr(settings, f"{name}_cron"),
                execution_timezone=settings.timezone,
                description=f"Its job, {how_often}: `{get_variable(f'{name}_cron')}`, in the time zone "
                f"`{get_variable('timezone')}`. {_PRESS}",
            )
            for name, (job, how_often) in jobs.items()
        ],
        sensors=[
            _build_input_sensor(specs, settings.watch_seconds),
            dg.AutomationConditionSensorDefinition(
                "refresh_what_changed",
                target=dg.AssetSelection.all(),
                default_status=dg.DefaultSensorStatus.STOPPED,
                minimum_interval_seconds=settings.watch_seconds,
                description=f"Re-materialize assets whose upstream data changed. {_PRESS}",
            ),
        ],
    )


def _build_input_sensor(specs: Sequence[ArchiveSpec], seconds: int) -> dg.SensorDefinition:
    """Return the sensor for raw inputs that a user adds to the data folder or changes there."""

    @dg.sensor(
        name="notice_inputs",
        target=dg.AssetSelection.assets(ANNOTATIONS_KEY, *(dg.AssetKey([RAW, spec.name]) for spec in specs)),
        minimum_interval_seconds=seconds,
        description="Materialize raw inputs that are new or changed in the data folder. Size and modification time are "
        "compared, and must be the same in two evaluations (a copy may be in progress). Whether the content changed "
        f"shows in its data version, a hash. {_PRESS}",
    )
    @show_errors_first()
    def notice_inputs(context: dg.SensorEvaluationContext, workspace: Workspace) -> dg.SensorResult:
        cursor = json.loads(context.cursor or "{}")
        seen, handled = cursor.get("seen", {}), cursor.get("handled", {})
        now = stat_inputs(specs, workspace.raw_inputs)
        if workspace.annotations:
            now[ANNOTATIONS_KEY.path[-1]] = _stat_input(Path(workspace.annotations))
        settled = [name for name, state in now.items() if state == seen.get(name) and state != handled.get(name)]
        handled |= {name: now[name] for name in settled}
        requests = []
        for name in settled:
            key = dg.AssetKey([RAW, name])
            last = context.instance.get_latest_materialization_event(key)
            time = now[name][1]  # or ETag
            if last is None or (
                time != _read_tag(workspace, key) if isinstance(time, str) else last.timestamp * 1e9 < time
            ):  # changed after the asset was made
                requests.append(dg.RunRequest(run_key=f"{name} {now[name]}", asset_selection=[key]))
        return dg.SensorResult(
            run_requests=requests,
            skip_reason=None if requests else f"{count_of(len(now), 'input')} added by hand, none of them new.",
            cursor=json.dumps({"seen": now, "handled": handled}),
        )

    return notice_inputs


def _read_tag(workspace: Workspace, key: dg.AssetKey) -> str | None:
    """Return the ETag of an input at an address when its asset was made; None if that is not known."""
    stored = RawArchiveIOManager(data=workspace.data)
    with suppress(OSError, *DAMAGE):
        return stored.load(stored.fetch(key)).card.etag
    return None


def stat_inputs(specs: Sequence[ArchiveSpec], root: Place) -> dict[str, list[Any]]:
    """Return size and modification time (ns) of every raw input that a user added by hand; at an address, its ETag."""
    if isinstance(root, Address):
        versions = {spec.name: look_for(root / spec.file) for spec in specs}
        return {name: [*version] for name, version in versions.items() if version}
    states: dict[str, list[Any]] = {}
    for spec in specs:
        found = [path for name in (spec.file, *spec.folders) if (path := root / name).exists()]
        if not found:
            continue
        state = _stat_input(found[0])
        record = read_record(locate_record(spec, root))
        if record is None or state != [record.bytes, record.mtime_ns]:
            states[spec.name] = state
    return states


def _stat_input(path: Path) -> list[int]:
    """Return size and time of a file. For a folder, number and latest time of its entries, two levels deep."""
    if path.is_file():
        return [path.stat().st_size, path.stat().st_mtime_ns]
    parts = [path, *path.glob("*"), *path.glob("*/*")]
    return [len(parts), max(part.stat().st_mtime_ns for part in parts)]
