"""The benchmarks of the training data at a small size: all ways run, agree and are measured."""

import importlib
import json
import mmap
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from pervl_assets.demo import TINY_CLIP
from pervl_assets.inversion.sources import locate_image
from pervl_assets_tests.perf import encoding, kills, many_images, matching, scaling, triplets
from pervl_assets_tests.perf.all import BENCHMARKS, list_commands
from pervl_assets_tests.perf.figures import command, find_peak, read_figures
from pervl_assets_tests.perf.inversion_project import SIMULATED, watch_memory
from pervl_assets_tests.perf.measure import Measured, measure
from pervl_assets_tests.perf.synthetic_inputs import draw_jpeg, draw_lines, list_lines, list_photographs, write_coco

pytestmark = pytest.mark.bench


def test_both_ways_give_the_same_sentences(tmp_path):
    outcome = triplets.compare_ways([*draw_lines(300)], 400, True, 1, tmp_path)
    assert read_figures(outcome.project)["rows"] > 300
    assert find_peak(outcome.project) > 1 << 20
    assert triplets.make_table([outcome], 1).row_count == 2
    np.save(tmp_path / "other.npy", {"man": [["1 "], ["a man"], ["a *"]]})
    with pytest.raises(RuntimeError, match="classes differ"):
        triplets.compare_results(tmp_path, tmp_path / "other.npy")


def run_here(task: list[str]) -> Measured:
    """Run the task of a command in this process; its time and memory are not measured."""
    figures = importlib.import_module(task[2]).TASKS[task[3]](*task[4:])
    return Measured(1.0, 1.0, 0, 0.0, json.dumps({**figures, "own_peak": 0}))


def test_both_ways_encode_to_the_same_vectors(tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, "measure", run_here)  # else each way would load torch once more
    write_coco(map(draw_jpeg, range(5)), tmp_path / "coco.zip")
    outcomes = encoding.compare_ways(tmp_path / "coco.zip", encoding.Model(str(TINY_CLIP), ""), 1, tmp_path)
    assert [outcome.cosine > 0.999 for outcome in outcomes] == [True] * 3
    assert outcomes[1].cosine > 0.99999
    assert encoding.make_table(outcomes, "").row_count == 3


def test_all_ways_find_the_same_classes(tmp_path):
    outcome = matching.compare_ways(40, 1, tmp_path)
    assert [*outcome.plain] == ["loop", "matrix"]
    assert matching.make_table([outcome], 1).row_count == 3


def test_the_books_of_many_images_add_up(tmp_path, monkeypatch):
    monkeypatch.setattr(many_images, "SHARD", 500)
    many_images.write_tables("2000", str(tmp_path))
    figures = many_images.keep_books("2000", "8", str(tmp_path))
    assert figures["shards"] == 4
    vectors = np.load(tmp_path / "visual.npz", allow_pickle=True)["arr_0"].item()
    checksums = np.array([zlib.crc32(locate_image(one).encode()) for one in vectors], np.uint32)
    assert np.array_equal(np.concatenate([vector for (vector,) in vectors.values()]), many_images.spread(checksums, 8))
    assert list(vectors) == sorted(f"{number} " for number in range(1, 2001))
    assert many_images.make_table({2000: figures}, 8).row_count == 6


def test_a_short_peak_of_memory_is_measured():
    size, private = 64 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # mapped, so not memory that was freed before
    with watch_memory() as seen, mmap.mmap(-1, size, flags=private) as memory:
        memory.write(b"1" * size)
        time.sleep(0.05)  # ten times the sampling interval
    assert max(seen) - seen[0] > 50 << 20


def test_a_continued_run_is_counted(tmp_path):
    outcome = scaling.run_all(90, 2, tmp_path)
    assert [read_figures(run)["encoded"] for run in outcome.runs.values()][::2] == [90, 0]
    assert scaling.make_table([outcome]).row_count == 3


def test_kills_leave_the_same_bytes(tmp_path):
    write_coco(map(draw_jpeg, range(24)), tmp_path / "coco.zip")
    outcome = kills.kill_often(tmp_path / "coco.zip", 4, 1, 4, tmp_path / "kills", SIMULATED)
    assert len(outcome.steps) == 2
    assert outcome.steps[-1].saved_after == 24
    assert kills.make_table(outcome, "images", 1).row_count == 3


def test_without_a_kit_inputs_are_synthetic(tmp_path):
    assert list_lines(tmp_path)[0] == next(draw_lines(400_000))
    assert list_photographs(tmp_path, 2)[1][:2] == b"\xff\xd8"


def test_one_command_runs_all_benchmarks():
    commands = list_commands(Path("kit"), Path("work"), True)
    assert [*commands] == [*BENCHMARKS]
    assert sum("--small" in command for command in commands.values()) == len(BENCHMARKS) - 1
    assert "--full" not in commands["triplets"]


def test_a_task_prints_its_figures(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(draw_lines(20)))
    run = measure(command("plain", "triplets", tmp_path / "a.txt", tmp_path / "a.npy"))
    assert json.loads(run.printed)["own_peak"] > 1 << 20
