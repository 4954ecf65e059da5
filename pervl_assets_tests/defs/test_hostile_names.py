"""Names of unknown origin, through the whole graph: shown in the UI, in logs and in a terminal, and obeyed by none."""

import csv
import io
import logging
import pickle
import re
import shutil

import dagster as dg
import pytest
from click.testing import CliRunner
from rich.console import Console

from pervl_assets.cli.commands import main
from pervl_assets.cli.printing import print_paths, print_run_result
from pervl_assets.cli.show_status import print_status
from pervl_assets.cli.status import InputState
from pervl_assets.cli.verification import print_verification
from pervl_assets.core.errors import PervlError
from pervl_assets.defs.jobs import _describe
from pervl_assets.defs.run_results import Finding, RunResult, read_run_result
from pervl_assets.demo import write_annotations
from pervl_assets.testing.fake_clip import FakeClip
from pervl_assets.testing.hostile import NAMES
from pervl_assets.testing.runs import explain, make_settings, run_selection
from pervl_assets.testing.worlds import locate_raw

SELECTION = """
+key:"inversion/openimages_matches" or key:"inversion/coco_object_sentences" or key:"inversion/coco_malformed_lines"
or key:"inversion/openimages_malformed_rows" or +key:"ytvos/captions" or +key:"deep_fashion/captions"
or +key:"deep_fashion/few_shot_split"
"""
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2066]")


READABLE = [name for name in NAMES if "\0" not in name]
"""The others are refused when the input is read."""


def write_hostile_inputs(data, annotations):
    """Write the names into every free text of the raw inputs: names, objects, sentences, captions, classes."""
    openimages = locate_raw(data, "openimages_class_descriptions")
    with openimages.open("a", newline="") as file:
        csv.writer(file).writerows((f"/m/{number}", name) for number, name in enumerate(READABLE))
        file.write(f"/m/bad,{NAMES[0]},x\n")
    triplets = locate_raw(data, "coco_svo_triplets")
    images = re.findall(r"img_id=(\d+)", triplets.read_text())[:9]
    with triplets.open("a") as file:
        for name in READABLE:
            plain = re.sub("[,|]", "/", name)
            file.writelines(
                f"img_id={image} | dog, on, {plain} | {plain} | a dog on a {plain}\n" for image in images[:7]
            )
        file.write(f"{NAMES[0]}\n")
    for file in annotations.rglob("*.csv"):
        rows = list(csv.reader(io.StringIO(file.read_text())))
        for number, row in enumerate(rows[1:]):
            for column in {"caption", "coarse_grained_class", "pair_id_categories"} & {*rows[0]}:
                row[rows[0].index(column)] = READABLE[number % len(READABLE)]
        with file.open("w", newline="") as opened:
            csv.writer(opened).writerows(rows)


@pytest.fixture(scope="module")
def runs(synthetic_raw, tmp_path_factory):
    """An instance in memory, and the runs of every table with texts from hostile inputs."""
    root = tmp_path_factory.mktemp("hostile")
    data, annotations = root / "data", root / "annotations"
    shutil.copytree(synthetic_raw, data)
    write_annotations(annotations)
    write_hostile_inputs(data, annotations)
    with dg.DagsterInstance.ephemeral() as instance:
        changes = {"resources": {"clip": FakeClip()}, "annotations": annotations, "top_objects": 90}
        results = run_selection(data, SELECTION, instance, **changes)
        assert all(result.success for result in results), explain(*results)
        yield instance, [result.run_id for result in results]


@pytest.fixture(scope="module")
def result(runs) -> RunResult:
    instance, run_ids = runs
    total = RunResult(succeeded=True)
    for run_id in run_ids:
        total.add(read_run_result(instance, run_id))
    total.total = len(total.made)
    total.findings += [Finding(name, "error", f"{name}\n{name}") for name in NAMES]  # of steps that failed
    return total


def list_metadata(instance, run_id):
    """Yield name and value of every metadata entry of a run, and the description of its checks as markdown."""
    for record in instance.get_records_for_run(run_id).records:
        event = record.event_log_entry.dagster_event
        if event and event.event_type == dg.DagsterEventType.ASSET_MATERIALIZATION:
            yield from event.step_materialization_data.materialization.metadata.items()
        elif event and event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            yield check.check_name, dg.MetadataValue.md(check.description)
            yield from check.metadata.items()


def list_strings(value):
    if isinstance(value, dict):
        return [text for pair in value.items() for part in pair for text in list_strings(part)]
    if isinstance(value, list):
        return [text for part in value for text in list_strings(part)]
    return [value] if isinstance(value, str) else []


def test_no_name_is_markup_or_a_command_in_the_ui(runs):
    instance, run_ids = runs
    shown = 0
    for name, value in (entry for run_id in run_ids for entry in list_metadata(instance, run_id)):
        texts = [name, *list_strings(value.value)]
        assert not any(CONTROL.search(text) for text in texts), name
        if isinstance(value, dg.MarkdownMetadataValue):
            drawn = re.sub(r"!\[[^\[\]]*\]\(data:image/jpeg;base64,[\w+/=]+\)", "", value.value)
            assert not re.search(r"[<>]|\]\(", drawn), (name, drawn[:500])
        shown += any("graphql?query=mutation" in text for text in texts)
    assert shown > 5


def test_no_name_is_a_command_in_a_log(runs):
    instance, run_ids = runs
    lines = [entry.user_message for run_id in run_ids for entry in instance.all_logs(run_id)]
    assert len(lines) > 50
    assert not any(CONTROL.search(line) for line in lines)


def test_no_name_is_markup_in_the_findings_of_a_job(result):
    found = _describe(result, "run")["found"].value
    assert "graphql?query=mutation" in found
    assert not re.search(r"[<>]|\]\(", found)
    assert len(found.splitlines()) == len(result.findings) + len(NAMES)


def test_a_terminal_shows_names_as_they_are(result):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=200)
    print_run_result(console, result, 1.0)
    printed = re.sub(r"\x1b\[[\d;]*m", "", file.getvalue())  # rich's own colours
    assert not CONTROL.search(printed)
    assert "[link=https://example.org]cat[/link][/]" in printed


def test_a_data_folder_is_printed_as_it_is(tmp_path):
    folder = tmp_path / "[bold]a[/] :cat: \x1b[2J"
    file = io.StringIO()
    console = Console(file=file, width=200, emoji=False)
    print_status(console, make_settings(folder), [InputState("zip", "[x]/a.zip", found=False)], [], [], {})
    print_verification(console, [], folder, [])
    print_paths(console, folder)
    assert not CONTROL.search(file.getvalue())
    assert file.getvalue().count(r"[bold]a[/] :cat: \x1b[2J") == 8
    assert "[x]/a.zip" in file.getvalue()


def test_errors_and_warnings_of_the_command_line_are_printed_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    done = CliRunner().invoke(main, ["preview", "a/\x1b[2J[/]:cat:", "--concept", "x"])
    assert done.exit_code == 1
    assert r"There is no folder tree 'a/\x1b[2J[/]:cat:'" in done.stderr
    assert not CONTROL.search(done.stderr)
    record = logging.makeLogRecord({"msg": "%s is ignored.", "args": ("\x1b[2J",)})
    assert logging.lastResort.format(record) == r"\x1b[2J is ignored."


def test_control_characters_of_an_error_are_shown():
    error = PervlError("evil\x1b[2J", details=["\x9b31m", "two\nlines"], advice="\u202e")
    assert not CONTROL.search(str(error) + error.problem + error.advice + "".join(error.details))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert error.details[1] == "two\nlines"
