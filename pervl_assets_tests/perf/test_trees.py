"""The benchmark of trees, on the demo data: both ways run, agree and are measured."""

import json
import sys

import pytest

from pervl_assets.demo import DEMO_PASSWORD
from pervl_assets_tests.perf.measure import list_family, measure, summarise
from pervl_assets_tests.perf.trees import RunResult, Work, compare_files, list_needed, make_table
from pervl_assets_tests.perf.wasteful_archive import count_unneeded, draw_wasteful_archive

pytestmark = pytest.mark.bench


@pytest.mark.parametrize("benchmark", ["ytvos", "deep_fashion"])
def test_both_ways_make_the_same_files(drawn, tmp_path, benchmark):
    path, password = {
        "ytvos": ("youtube_vos/train.zip", ""),
        "deep_fashion": ("deep_fashion2/train.zip", DEMO_PASSWORD),
    }[benchmark]
    work = Work(benchmark, benchmark, drawn / path, drawn / "annotations", password, 1, 1)
    plain = measure(work.command("plain", tmp_path / "plain"))
    project = measure(work.command("project", tmp_path / "project"))
    compare_files(tmp_path / "plain/trees", tmp_path / "project/trees")
    assert json.loads(project.printed)["rendered"] > 0
    assert min(run.peak for run in (plain, project)) > 1 << 20
    assert make_table([RunResult(work, plain, project, again=project)], 1).row_count == 3
    some = next(path for path in (tmp_path / "plain/trees").rglob("*.jpg") if "images_with_bbox" not in path.parts)
    some.write_bytes(b"")
    with pytest.raises(RuntimeError, match="1 files differ"):
        compare_files(tmp_path / "plain/trees", tmp_path / "project/trees")


def test_a_wasteful_archive_has_the_given_ratio_of_unneeded_bytes(drawn, tmp_path):
    kit, target = drawn / "deep_fashion2/train.zip", tmp_path / "wasteful.zip"
    needed = list_needed(Work("", "deep_fashion", kit, drawn / "annotations", DEMO_PASSWORD, 2, 1))
    draw_wasteful_archive(kit, DEMO_PASSWORD, needed, 3, target)
    assert count_unneeded(target, needed) == pytest.approx(3, rel=0.05)
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_memory_is_summed_over_all_processes():
    program = (
        "import subprocess, sys, time; block = bytearray(b'x') * (40 << 20); "
        "len(sys.argv) > 1 or subprocess.run([sys.executable, '-c', sys.orig_argv[2], 'child']); time.sleep(0.5)"
    )
    measured = measure([sys.executable, "-c", program])
    assert 80 << 20 < measured.peak < 160 << 20
    assert measured.seconds > 1 > measured.cpu


def test_a_process_that_ended_has_no_family():
    assert list_family(2**22 + 1) == [2**22 + 1]


def test_medians_are_of_runs():
    runs = [measure([sys.executable, "-c", "print(1)"]) for _ in range(3)]
    assert summarise(runs).seconds == sorted(run.seconds for run in runs)[1]
    with pytest.raises(RuntimeError, match="Exit status 3"):
        measure([sys.executable, "-c", "raise SystemExit(3)"])
