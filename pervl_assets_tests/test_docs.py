"""The documentation: links resolve, tables agree with the definitions, commands and variables exist, examples work."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
import yaml

from pervl_assets.benchmarks import find_benchmarks
from pervl_assets.cli.commands import main
from pervl_assets.cli.new import create_benchmark
from pervl_assets.evaluation.published import read_published
from pervl_assets.evaluation.score_files import read_gallery, read_queries, score_queries
from pervl_assets.settings import POSTGRES_URL, SLACK_WEBHOOK, SMTP_URL, Settings, get_variable
from pervl_assets_tests.tools import write_tables

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
EXTENDING = ROOT / "docs/extending.md"

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"^`(\S+)`\n\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
VARIABLE = re.compile(r"\bPERVL_[A-Z][A-Z_]*\b")


@pytest.fixture(params=PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def page(request) -> Path:
    """Each page in turn."""
    return request.param


@pytest.fixture(scope="module")
def graph():
    """The asset graph of the full profile."""
    return write_tables.load_graph()


def list_anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# ---- links


def test_no_page_installs_the_project_from_an_index_that_does_not_have_it(page):
    assert re.findall(r"pip install[^\n]*['\" ]pervl[_-]assets", page.read_text(encoding="utf-8")) == []


def test_every_relative_link_resolves_to_a_file_and_a_heading(page):
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in list_anchors(file), target


def test_every_page_can_be_reached_from_the_readme():
    reached, open_pages = set(), [README]
    while open_pages:
        page = open_pages.pop()
        reached.add(page)
        linked = {(page.parent / link.partition("#")[0]).resolve() for link in LINK.findall(page.read_text())}
        open_pages += [other for other in PAGES if other in linked - reached]
    assert reached == set(PAGES)


def test_the_glossary_is_sorted_and_names_modules_that_exist():
    rows = re.findall(r"^\| ([^|]+) \|.*\| (\S+) \|$", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)[2:]
    terms = [term for term, _ in rows]
    assert len(terms) > 20
    assert terms == sorted(terms)
    modules = {module.strip("`") for _, module in rows if module.startswith("`")}
    assert {name for name in modules if importlib.util.find_spec(f"pervl_assets.{name}") is None} == set()


# ---- tables from the definitions


def test_tables_agree_with_the_definitions(page, graph):
    text = page.read_text()
    assert write_tables.fill_page(text, graph) == text, f"{page} is out of date: run `make tables`"
    opening, closing = (
        len(re.findall(line, text, re.MULTILINE)) for line in (r"^<!-- from the definitions: ", r"^<!-- end -->$")
    )
    assert opening == closing == len(write_tables.list_parts(text))


def test_every_asset_is_on_the_page_of_its_group(graph):
    documented = {
        path.stem: set(write_tables.list_assets(path.read_text())) for path in write_tables.PAGES.glob("*.md")
    }
    documented.pop("README")
    undocumented = [b for b in find_benchmarks() if b.name not in documented]  # the page of a benchmark is optional
    optional = {f"raw/{spec.name}" for benchmark in undocumented for spec in benchmark.archives}
    for key in graph.materializable_asset_keys:
        group, name = graph.get(key).group_name, key.to_user_string()
        if group not in {benchmark.name for benchmark in undocumented} and name not in optional:
            assert name in documented[group], name


def test_every_command_has_a_section_of_its_page():
    text = (ROOT / "docs/commands.md").read_text()
    assert [name for kind, name in write_tables.list_parts(text) if kind == "command"] == sorted(main.commands)
    assert re.findall("^## (.+)$", text, re.MULTILINE) == sorted(main.commands)


def test_the_published_numbers_of_the_readme_are_those_of_the_evaluation():
    number = r"([\d.]+) ± ([\d.]+)"
    rows = re.findall(rf"^\| ([\w +]+) \| {number} \| {number} \|", README.read_text(), re.MULTILINE)
    published = read_published().filter(query_set="rich", split="test", protocol="palavra")
    assert len(rows) == 6
    for method, *numbers in rows:
        of_both = published.filter(method=method).sort("benchmark").select(pl.col("mrr", "error") * 100)
        assert [float(number) for number in numbers] == pytest.approx([one for row in of_both.rows() for one in row])


def test_the_citation_has_the_version_of_the_project():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"to be {citation['version']}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_rule_that_code_cites_is_explained():
    explained = set(re.findall(r"^\| ([A-F]\d+) \|", (ROOT / "docs/fidelity.md").read_text(), re.MULTILINE))
    sources = [file for package in ("pervl_assets", "pervl_assets_tests") for file in (ROOT / package).rglob("*.py")]
    cited = {
        rule
        for file in sources
        for passage in re.findall(r"rules? ((?:[A-F]\d+(?:, | and | to )?)+)", file.read_text())
        for rule in re.findall(r"[A-F]\d+", passage)
    }
    assert len(cited) > 20
    assert cited <= explained


def test_the_messages_of_the_page_are_those_of_the_code():
    messages = re.findall(r"^\| \*(.+?)\* ", (ROOT / "docs/full_data.md").read_text(), re.MULTILINE)
    code = "".join(file.read_text() for file in (ROOT / "pervl_assets").rglob("*.py"))
    assert len(messages) > 5
    assert [part for message in messages for part in message.split("…") if part.strip() not in code] == []


# ---- commands and variables


def test_every_command_exists(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    code = [*re.findall(r"`([^`\n]+)`", FENCE.sub("", text)), *(block for _, block in FENCE.findall(text))]
    for passage in code:
        for name, rest in re.findall(r"(?:^|[\s/(])pervl ([a-z]+)([^\n|]*)", passage):
            assert name in main.commands, name
            options = {option for parameter in main.commands[name].params for option in parameter.opts}
            assert set(re.findall(r"(?<=\s)--[a-z-]+", rest)) <= {*options, "--help"}, rest
        assert set(re.findall(r"(?:^|&& )make ([a-z]+)", passage, re.MULTILINE)) <= targets, passage
        for module in re.findall(r"python -m (pervl_assets[\w.]+)", passage):
            assert importlib.util.find_spec(module), module


def test_every_variable_is_a_setting(page):
    known = {POSTGRES_URL, SLACK_WEBHOOK, SMTP_URL, *map(get_variable, Settings.model_fields)}
    assert set(VARIABLE.findall(page.read_text())) <= known


# ---- what is copied into a shell


def test_no_command_installs_the_project_from_an_index(page):
    """Its name is on none, so whatever has that name there is something else."""
    assert re.findall(r"pip install[^\n]*?[\s'\"](pervl[_-]assets[^\s`]*)", page.read_text()) == []


def test_policies_can_be_read(page):
    for kind, block in FENCE.findall(page.read_text()):
        if kind == "json":
            assert json.loads(block)


# ---- the example of evaluation.md


def test_the_embeddings_of_the_page_have_the_score_of_the_page(tmp_path, monkeypatch):
    page = (ROOT / "docs/evaluation.md").read_text()
    (code,) = (block for kind, block in FENCE.findall(page) if kind == "python")
    monkeypatch.chdir(tmp_path)
    exec(code, {})  # noqa: S102 - a page of this project
    (mine,) = score_queries([read_queries(tmp_path / "mine.parquet")], read_gallery(tmp_path / "gallery.parquet"))
    assert re.search(rf"^ MRR .* {100 * mine.scores['mrr']:.1f}$", page, re.MULTILINE)


# ---- the examples of extending.md


def read_files(page: Path) -> dict[str, str]:
    """Return the complete files on a page, by path."""
    return dict(FILE.findall(page.read_text()))


def link_project(target: Path, *more: str) -> None:
    """Create a project of links to this one's modules, with real folders where files are added."""
    shutil.copytree(ROOT / "annotations", target / "annotations")
    real = ["pervl_assets", "pervl_assets/benchmarks", "pervl_assets/demo", "pervl_assets/demo/builders", *more]
    for folder in real:
        (target / folder).mkdir()
    (target / "pervl_assets/annotations").symlink_to("../annotations")
    for folder in real:
        for entry in (ROOT / folder).iterdir():
            if entry.name != "__pycache__" and not (target / folder / entry.name).exists():
                (target / folder / entry.name).symlink_to(entry)


def test_the_new_benchmark_of_the_page_works_as_it_is(tmp_path):
    link_project(tmp_path)
    text = EXTENDING.read_text()
    (name,) = re.findall(r"^pervl new benchmark (\w+)$", text, re.MULTILINE)
    created = [path.relative_to(tmp_path).as_posix() for path in create_benchmark(name, tmp_path, dg.Definitions())]
    assert sorted(re.findall(r"^\| `(\S+)` \| .* \| .* \|$", text, re.MULTILINE)) == sorted(created)
    annotations = tmp_path / f"annotations/demo/{name}/photos.csv"
    written = annotations.read_bytes()
    annotations.unlink()
    (write,) = re.findall(r"^python -c .*$", text, re.MULTILINE)
    (test,) = re.findall(r"^\.venv/bin/pytest (.*)$", text, re.MULTILINE)
    commands = [
        write.replace("python", sys.executable, 1),
        f"{sys.executable} -m pytest -q -p no:cacheprovider --basetemp run {test}",
    ]
    plain = {"PYTHONPATH": str(tmp_path), "PERVL_PROFILE": "demo", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    run = {"cwd": tmp_path, "env": {**os.environ, **plain}, "capture_output": True, "text": True}
    done = subprocess.run(["bash", "-ec", "\n".join(commands)], **run, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert annotations.read_bytes() == written


def test_what_the_page_says_to_change_is_in_the_template():
    changes = EXTENDING.read_text().partition("### 2.")[2].partition("\n\nThen")[0]
    named = re.findall(r"`(_?[A-Z]+|[a-z]+_[a-z_]+)`", changes)
    template = (ROOT / "pervl_assets/templates/benchmark.py").read_text()
    assert len(named) > 6
    assert [name for name in named if name not in template] == []


def run_block(name: str) -> dict[str, object]:
    """Run the code block of the page that defines a name; return everything it defines."""
    (block,) = (
        text for _, text in FENCE.findall(EXTENDING.read_text()) if re.search(rf"^(class )?{name}\b", text, re.M)
    )
    scope: dict[str, object] = {"__name__": "docs"}
    exec(block, scope)  # noqa: S102 - a page of this project
    return scope


def test_the_check_of_the_page_works():
    check = run_block("ENOUGH_SHOTS")["ENOUGH_SHOTS"]
    photos = pl.DataFrame({"concept": ["anna"] * 5 + ["ben"] * 4, "role": ["few_shot"] * 9})
    found = check.evaluate(photos)
    assert not found.passed
    assert found.rows.rows() == [("ben", 4)]
    assert check.evaluate(photos.filter(concept="anna")).passed


def test_the_io_manager_of_the_page_is_found_and_does_all_that_others_do(tmp_path):
    link_project(tmp_path, "pervl_assets/io_managers")
    name = "pervl_assets/io_managers/texts.py"
    (tmp_path / name).write_text(read_files(EXTENDING)[name])
    script = """
import dagster as dg
from pathlib import Path
from pervl_assets.definitions import build_definitions
from pervl_assets.defs.checks import SUMS_HOLD, build_sums_check
from pervl_assets.io_managers import find_io_managers
from pervl_assets.release.parts import Part
from pervl_assets.testing.runs import make_settings

data = Path("data")
resources = build_definitions(make_settings(data)).resources
assert type(resources["texts"]) is find_io_managers()["texts"]

@dg.asset(io_manager_key="texts")
def note():
    return "Flüffy"

@dg.asset(io_manager_key="texts")
def copy(note):
    return note * 2

run = dg.materialize([note, copy, build_sums_check([note, copy])], resources=resources)
assert [check.passed for check in run.get_asset_check_evaluations()] == [True, True]
assert (data / "assets/copy.txt").read_text(encoding="utf-8").endswith("FlüffyFlüffy")
texts, key = resources["texts"], dg.AssetKey("copy")
assert texts.verify(key).unchanged and texts.stamp(key)
part = texts.publish(Part("copy", "", ()), {None: texts.locate(key)}, {}, lambda images: images)
assert part.files == ("assets/copy.txt",)
(data / "assets/copy.txt").write_text("damaged")
assert texts.verify(key).changed == ["assets/copy.txt"] and texts.read_previous(key) is None
"""
    run_script = [sys.executable, "-c", script]
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "PERVL_PROFILE": "demo"}
    done = subprocess.run(run_script, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
