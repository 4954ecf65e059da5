"""`pervl new`: the files of a further benchmark, copied from the templates of a checkout."""

import keyword
import re
import runpy
from pathlib import Path
from typing import Final

import dagster as dg
from rich.console import Console

import pervl_assets
from pervl_assets.cli.console import escape
from pervl_assets.core.errors import PervlError
from pervl_assets.core.files import explain_write_errors, write_bytes_atomically

_NAME: Final = re.compile(r"(?!.{31})[a-z](?:_?[a-z0-9])*")
_TEMPLATES: Final = "pervl_assets/templates"
_BUILDER: Final = "builder.py"
_ANNOTATIONS: Final = "annotations/demo/NAME"
_FILES: Final = {
    "benchmark.py": "pervl_assets/benchmarks/NAME.py",
    _BUILDER: "pervl_assets/demo/builders/NAME.py",
    "test_benchmark.py": "pervl_assets_tests/benchmarks/test_NAME.py",
}
"""Templates, each with the file that is made of it."""


def create_benchmark(name: str, checkout: Path, defs: dg.Definitions) -> list[Path]:
    """Write module, demo builder, test and demo annotations of a benchmark that works; overwrite nothing.

    Args:
        name: Of its module and of its assets' group and keys.
        checkout: Folder of a checkout of this project.
        defs: The graph without it.

    Returns:
        The files.

    Raises:
        PervlError: The name is not valid or taken, or the folder is no checkout.
        WriteError: No permission, or no space left.
    """
    _check_form(name)
    with explain_write_errors(checkout):
        if not all((checkout / _TEMPLATES / template).is_file() for template in _FILES):
            raise PervlError(
                f"{checkout.absolute()} is not a checkout of pervl_assets: it has no {_TEMPLATES}.",
                advice="A benchmark is added to the project's own code. Clone the project, run make install, and give "
                "its folder as --folder.",
            )
        targets = {checkout / _TEMPLATES / one: checkout / file.replace("NAME", name) for one, file in _FILES.items()}
        annotations = checkout / _ANNOTATIONS.replace("NAME", name)
        if there := [path for path in (*targets.values(), annotations) if path.exists()]:
            raise PervlError(
                f"The benchmark {name} has files already:",
                details=map(str, there),
                advice="Choose another name, or move these away. Nothing was written.",
            )
        _check_free(name, defs)
        title = name.replace("_", " ").title()
        for template, target in targets.items():
            text = template.read_text(encoding="utf-8").replace("NAME", name).replace("TITLE", title)
            write_bytes_atomically(target, text.encode())
    runpy.run_path(str(targets[checkout / _TEMPLATES / _BUILDER]))["BUILDER"].write_annotations(annotations, 0)
    return [*targets.values(), *sorted(annotations.iterdir())]


def _check_form(name: str) -> None:
    """Refuse a name that no module can have."""
    if not _NAME.fullmatch(name) or keyword.iskeyword(name):
        raise PervlError(
            f"{name!r} cannot be the name of a benchmark.",
            advice="Use at most 30 small letters, digits and single underscores, a letter first, and no word of "
            "Python, e.g. household_pets.",
        )


def _check_free(name: str, defs: dg.Definitions) -> None:
    """Refuse a name that a key has: group and prefix of the benchmark's assets are named so."""
    taken = {"assets", "views", *(part for key in defs.resolve_asset_graph().get_all_asset_keys() for part in key.path)}
    if name in taken:
        raise PervlError(f"The name {name} is taken.", advice="Choose one that no asset, group or folder has.")


def print_benchmark(console: Console, name: str, files: list[Path], checkout: Path) -> None:
    """Print what was written, and what to do next."""
    for file in files:
        console.print(escape(str(file)), highlight=False, soft_wrap=True)
    running = Path(pervl_assets.__file__).resolve().parents[1]
    if not running.samefile(checkout):
        where = f"[yellow]pervl runs the code of {escape(str(running))}[/]: run make install in {escape(str(checkout))}"
        console.print(where, highlight=False, soft_wrap=True)
    console.print("\nIt works on demo data of its own. Try it:", highlight=False)
    for command in (
        f".venv/bin/pytest {_FILES['test_benchmark.py'].replace('NAME', name)}",
        f"pervl materialize +{name}",
    ):
        console.print(f"  {command}", highlight=False, soft_wrap=True)
    console.print("Then make it yours, file by file: docs/extending.md", highlight=False)
