"""`pervl verify`: all values on disk compared with their manifests. It repairs nothing.

Its results are recorded as evaluations of `sums_hold`. `pervl materialize` reads these, and repairs values that differ
even if neither sizes nor mtimes do.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import dagster as dg

from pervl_assets.cli.console import make_console
from pervl_assets.cli.group import print_error
from pervl_assets.cli.printing import print_verification
from pervl_assets.cli.runs import find_dagster_home, open_instance
from pervl_assets.core.addresses import Address
from pervl_assets.core.errors import PervlError
from pervl_assets.core.files import VerifyResult
from pervl_assets.defs.checks import SUMS_HOLD, summarize_sums
from pervl_assets.defs.release import CROISSANT_KEY
from pervl_assets.defs.run_results import name_partition
from pervl_assets.defs.runs import list_values
from pervl_assets.io_managers import find_io_managers
from pervl_assets.io_managers.base import PervlIOManager
from pervl_assets.settings import Settings
from pervl_assets.storage import open_store
from pervl_assets.storage.unfinished import find_work


def verify_values(defs: dg.Definitions, data: Path | Address) -> Iterator[tuple[str, VerifyResult]]:
    """Verify every value of the graph that is materialized, and find unfinished work that was left behind.

    A value that is not on disk, but that another one was made from, is missing; only the release can leave one out.

    Yields:
        Name of the asset, with the partition in brackets, and the result.
    """
    graph = defs.resolve_asset_graph()
    managers = {key: manager(data=str(data)) for key, manager in find_io_managers().items()}
    store = open_store(str(data))
    listing = store.list_values()

    def find_manager(key: dg.AssetKey) -> PervlIOManager:
        return managers[graph.get(key).assets_def.get_io_manager_key_for_asset_key(key)]

    def is_used(key: dg.AssetKey, partition: str | None) -> bool:
        """Return whether a value was made from this one; one of the same partitions is made from its own."""
        partitioning = graph.get(key).partitions_def
        return any(
            find_manager(child).is_there(child, other, listing)
            for child, other in list_values(graph, graph.get(key).child_keys - {CROISSANT_KEY})
            if graph.get(child).partitions_def != partitioning or other == partition
        )

    for key, partition in sorted(list_values(graph, graph.materializable_asset_keys), key=lambda value: value[0]):
        manager = find_manager(key)
        result = manager.verify(key, partition)
        if not result.files and is_used(key, partition):
            result = VerifyResult(1, missing=[manager.store.name(manager.locate(key, partition))])
        yield name_partition(key.to_user_string(), partition), result
    if left := sorted({*find_work(store.folder), *store.list_work()}):
        yield "unfinished work", VerifyResult(len(left), extra=left)


def record_results(defs: dg.Definitions, instance: dg.DagsterInstance, results: Mapping[str, VerifyResult]) -> None:
    """Record results of `verify_values`, one evaluation of `sums_hold` per asset that has files."""
    graph = defs.resolve_asset_graph()
    for key in sorted(graph.materializable_asset_keys):
        values = list_values(graph, {key})
        found = {one: results[name_partition(key.to_user_string(), one)] for _, one in values}
        if any(value.files for value in found.values()):
            check = summarize_sums(key, found)
            instance.report_runless_asset_event(
                dg.AssetCheckEvaluation(
                    asset_key=key,
                    check_name=SUMS_HOLD,
                    passed=check.passed,
                    metadata=check.metadata,
                    severity=check.severity,
                    description=check.description,
                )
            )


def run_verification() -> bool:
    """Verify all values, print and record the results; return whether all of them match their manifests."""
    from pervl_assets.definitions import defs

    settings, console = Settings.from_env(), make_console()
    with console.status("reading all values"):
        results = dict(verify_values(defs, settings.data))
    passed = print_verification(console, results, settings.data)
    if (find_dagster_home(settings.data) / "dagster.yaml").exists():  # else nothing is recorded as materialized
        try:
            with open_instance(settings.data) as instance:
                record_results(defs, instance, results)
        except PervlError as error:
            print_error("[yellow]warning[/] These results are not recorded for pervl materialize.", error)
    return passed
