"""`pervl verify`: all values on disk compared with their manifests. It repairs nothing.

Its results are recorded as evaluations of `sums_hold`. `pervl materialize` reads these, and repairs values that differ
even if neither sizes nor mtimes do.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import click
import dagster as dg
from rich.console import Console

from pervl_assets.cli.console import escape, make_console, print_text
from pervl_assets.cli.group import print_error
from pervl_assets.cli.printing import format_bytes, name_remedy
from pervl_assets.cli.runs import find_dagster_home, open_instance
from pervl_assets.cli.selections import choose_assets
from pervl_assets.cli.tables import AssetRow, print_assets
from pervl_assets.core.addresses import Address
from pervl_assets.core.errors import PervlError, name_some
from pervl_assets.core.files import VerifyResult
from pervl_assets.core.text import count_of
from pervl_assets.defs.checks import SUMS_HOLD, summarize_sums
from pervl_assets.defs.release import RELEASE_KEYS
from pervl_assets.defs.run_results import name_partition
from pervl_assets.defs.runs import list_values
from pervl_assets.io_managers import find_io_managers
from pervl_assets.io_managers.base import PervlIOManager
from pervl_assets.settings import Settings
from pervl_assets.storage import open_store
from pervl_assets.storage.unfinished import find_work

_DIFFERENCES: Final = ("missing", "changed", "extra")
_UNFINISHED: Final = "unfinished work"


class Verified(NamedTuple):
    """The result of verifying an asset or one partition of it; the asset `unfinished work` is what dead runs left."""

    asset: str
    partition: str | None
    result: VerifyResult

    @property
    def name(self) -> str:
        """Its name with the partition."""
        return name_partition(self.asset, self.partition)


def verify_values(
    defs: dg.Definitions, data: Path | Address, keys: Collection[dg.AssetKey] | None = None
) -> Iterator[Verified]:
    """Verify every value of these assets that is materialized.

    A value that is not on disk, but that another one was made from, is missing; only the release can leave one out.

    Args:
        defs: The graph.
        data: The data root.
        keys: The assets; None: all, and unfinished work that was left behind is found, too.
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
            for child, other in list_values(graph, graph.get(key).child_keys - RELEASE_KEYS)
            if graph.get(child).partitions_def != partitioning or other == partition
        )

    chosen = graph.materializable_asset_keys if keys is None else {*keys}
    for key, partition in sorted(list_values(graph, chosen), key=lambda value: value[0]):
        manager = find_manager(key)
        result = manager.verify(key, partition)
        if not result.files and is_used(key, partition):
            result = VerifyResult(1, missing=[manager.store.name(manager.locate(key, partition))])
        yield Verified(key.to_user_string(), partition, result)
    if keys is None and (left := sorted({*find_work(store.folder), *store.list_work()})):
        yield Verified(_UNFINISHED, None, VerifyResult(len(left), extra=left))


def record_results(instance: dg.DagsterInstance, results: Iterable[Verified]) -> None:
    """Record results of `verify_values`, one evaluation of `sums_hold` per asset that has files."""
    by_asset: dict[str, dict[str | None, VerifyResult]] = {}
    for asset, partition, result in results:
        if asset != _UNFINISHED:
            by_asset.setdefault(asset, {})[partition] = result
    for asset, found in by_asset.items():
        if any(value.files for value in found.values()):
            key = dg.AssetKey.from_user_string(asset)
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


def _encode_verification(results: Sequence[Verified], *, passed: bool) -> str:
    """Return results of `verify_values` as JSON."""
    values = [
        {"asset": one.asset, "partition": one.partition, **vars(one.result)}
        for one in results
        if one.asset != _UNFINISHED
    ]
    left = [name for one in results if one.asset == _UNFINISHED for name in one.result.extra]
    return json.dumps({"passed": passed, "values": values, "unfinished_work": left}, indent=2)


def print_verification(
    console: Console,
    results: Sequence[Verified],
    data: Path | Address,
    words: Sequence[str] = (),
    *,
    quiet: bool = False,
) -> None:
    """Print the differences between values and their manifests, and the sum of them.

    Args:
        console: Where it is printed.
        results: The values, and last what a dead run left.
        data: The data root.
        words: The selection.
        quiet: Whether only differences and the sum are printed.
    """
    if not quiet:
        print_assets(console, ("result", ">bytes", ">files"), _list_verified(results), 1)
    differing = [one for one in results if not one.result.unchanged]
    for one in differing:
        for what in _DIFFERENCES:
            if names := getattr(one.result, what):
                text = f"[red]{what}[/] in [bold]{escape(one.name)}[/]: {escape(name_some(names))}"
                print_text(console, text)
    found = [one.result for one in results if one.result.files]
    command = name_remedy(words)
    if not found:
        text = f"[red]nothing to verify below {escape(str(data))}[/]: run {command} first"
    elif differing:
        text = (
            f"[bold red]{len(differing)} of {len(found)} values not as in their manifests[/]: {command} "
            "repairs missing and changed files, and nothing else"
        )
    else:
        files = sum(result.files for result in found)
        counts = f"{count_of(files, 'file')} in {count_of(len(found), 'value')}"
        text = f"[bold green]verified[/]: {counts}, all as in the manifests"
    print_text(console, text)


def _list_verified(results: Iterable[Verified]) -> Iterator[AssetRow]:
    """Yield the rows of the table of verified values; partitions of an asset that are alike share one."""
    by_asset = dict[str, list[Verified]]()
    for one in results:
        by_asset.setdefault(one.asset, []).append(one)
    for asset, values in by_asset.items():
        alike = len({_show_result(value.result) for value in values}) == 1
        for row in [values] if alike else [[value] for value in values]:
            files, size = (sum(getattr(value.result, what) for value in row) for what in ("files", "bytes"))
            counts = (format_bytes(size), f"{files:,}") if size else ("", "")
            cells = (_show_result(row[0].result), *counts)
            yield AssetRow(asset, None if alike else row[0].partition, cells, len(row))


def _show_result(result: VerifyResult) -> str:
    counts = [f"{len(names):,} {what}" for what in _DIFFERENCES if (names := getattr(result, what))]
    if counts:
        return f"[red]{', '.join(counts)}[/]"
    return "[green]as written[/]" if result.files else "[dim]not materialized[/]"


def run_verification(words: Sequence[str] = (), *, as_json: bool = False, quiet: bool = False) -> bool:
    """Verify the values of a selection, print and record the results.

    Returns:
        Whether there are values, and all of them match their manifests.
    """
    from pervl_assets.definitions import defs

    settings, console = Settings.from_env(), make_console()
    keys = choose_assets(defs, words) if words else None
    with Console(stderr=True).status("reading all values"):
        results = [*verify_values(defs, settings.data, keys)]
    passed = any(one.result.files for one in results) and all(one.result.unchanged for one in results)
    if as_json:
        click.echo(_encode_verification(results, passed=passed))
    else:
        print_verification(console, results, settings.data, words, quiet=quiet)
    if (find_dagster_home(settings.data) / "dagster.yaml").exists():  # else nothing is recorded as materialized
        try:
            with open_instance(settings.data) as instance:
                record_results(instance, results)
        except PervlError as error:
            print_error("[yellow]warning[/] These results are not recorded for pervl materialize.", error)
    return passed
