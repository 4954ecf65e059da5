"""What `pervl materialize --dry-run` shows: the runs it would start, what each makes in order, and why."""

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from rich.console import Console

from pervl_assets.cli.console import escape, make_table, print_text
from pervl_assets.cli.status import list_inputs
from pervl_assets.core.errors import name_some
from pervl_assets.core.text import count_of
from pervl_assets.defs.raw import RAW
from pervl_assets.defs.run_results import name_partition
from pervl_assets.defs.runs import Plan
from pervl_assets.defs.up_to_date import NEVER_MADE, NOT_ON_DISK, Value
from pervl_assets.settings import Settings


def list_absent(settings: Settings, values: Iterable[Value]) -> list[str]:
    """Return the paths of the raw inputs among these values that a run would neither find, download nor draw."""
    names = {key.path[-1] for key, _ in values if key.path[0] == RAW}
    return [one.path for one in list_inputs(settings, names) if one.is_wanted]


def print_plan(console: Console, plan: Plan, inputs: Mapping[Value, str], absent: Collection[str] = ()) -> None:
    """Print the runs of a plan of which none has begun, with the reason for each value, and their number.

    Args:
        console: Where it is printed.
        plan: The plan.
        inputs: Inputs that are outdated and not selected, with the reason.
        absent: Paths of raw inputs that are needed and cannot be had, from `list_absent`.
    """
    runs, follow = plan.list_runs(), plan.list_followers()
    if not runs:
        console.print(f"[bold green]{plan.skipped} up to date, nothing to do[/]", highlight=False)
        return
    table = make_table("would be made", "because")
    for number, run in enumerate(runs, 1):
        table.add_row(f"[bold]run {number}{escape(f', {run.partition}') if run.partition else ''}[/]")
        for key in run.keys:
            table.add_row(f"  {escape(key.to_user_string())}", escape(plan.todo[key, run.partition]))
        table.add_section()
    console.print(table)
    if absent:
        print_text(console, f"[red]not found[/]: {escape(name_some(absent))}; what is made from it would fail")
    made = f"[bold]{count_of(len(plan.todo), 'value')} in {count_of(len(runs), 'run')} would be made[/]"
    condition = " once their inputs are" if {NEVER_MADE, NOT_ON_DISK} & {*inputs.values()} else ""
    print_text(console, f"{made}{condition}, {plan.skipped} up to date; nothing was written")
    if follow:
        names = name_some([name_partition(key.to_user_string(), partition) for key, partition in follow])
        print_text(console, f"Up to {len(follow)} more, where these change: {escape(names)}")


def encode_plan(plan: Plan, inputs: Mapping[Value, str], absent: Collection[str] = ()) -> str:
    """Return a plan as JSON. Arguments as of `print_plan`."""
    runs = [
        {
            "partition": run.partition,
            "values": [encode_value((key, run.partition), reason=plan.todo[key, run.partition]) for key in run.keys],
        }
        for run in plan.list_runs()
    ]
    content = {
        "runs": runs,
        "may_follow": [encode_value(value) for value in plan.list_followers()],
        "up_to_date": plan.skipped,
        "outdated_inputs": [encode_value(value, reason=reason) for value, reason in inputs.items()],
        "absent_files": [*absent],
    }
    return json.dumps(content, indent=2)


def encode_value(value: Value, **more: str) -> dict[str, Any]:
    """Return a value, with more that is known of it, as it is in JSON documents."""
    return {"asset": value[0].to_user_string(), "partition": value[1], **more}
