import pytest

from pervl_assets.core import progress
from pervl_assets.core.progress import BYTES, Progress, read_progress


@pytest.fixture
def clock(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    return seconds


def run(clock, steps, unit="images", note=""):
    """Call at the times of `steps`, each with the arguments of the call."""
    lines, clock[0] = [], 0
    report = Progress(lines.append, unit)
    for seconds, *numbers in steps:
        clock[0] = seconds
        report(*numbers, note=note)
    return lines


def test_work_of_less_than_ten_seconds_writes_nothing(clock):
    assert run(clock, [(0, 0, 10), (5, 5, 10), (9, 10, 10)]) == []


def test_lines_are_ten_seconds_apart_and_the_last_is_at_the_end(clock):
    steps = [(0, 0, 1000), *((second, 10 * second, 1000) for second in range(1, 101))]
    lines = run(clock, steps, note="decoding 80%")
    assert lines[0] == "10%, 1 min 30 s left: 100 of 1,000 images, 10.0/s; decoding 80%"
    assert lines[-1] == "100%: 1,000 images after 1 min 40 s; decoding 80%"
    assert len(lines) == 10
    assert [read_progress(line) for line in lines] == [*range(10, 101, 10)]


def test_the_last_line_does_not_wait(clock):
    assert len(run(clock, [(0, 0, 3), (10, 1, 3), (11, 2, 3), (12, 3, 3)])) == 2


def test_earlier_work_is_not_in_the_rate(clock):
    (line,) = run(clock, [(0, 900, 1000), (20, 901, 1000)], "epochs")
    assert line == "90%, 33 min left: 901 of 1,000 epochs, 20 s each"


def test_an_unknown_rate_or_total_is_left_out(clock):
    assert run(clock, [(10, 1, 300)], "epochs") == ["0%: 1 of 300 epochs"]
    assert run(clock, [(0, 0, None), (10, 25_000_000, None)], BYTES) == ["25.0 MB done, 2.5 MB/s"]
    assert run(clock, [(0, 0, 10**9), (10, 10**8, 10**9)], BYTES) == [
        "10%, 1 min 30 s left: 100.0 MB of 1.0 GB, 10.0 MB/s"
    ]


def test_the_rate_is_that_of_the_last_minute(clock):
    links = [(second, 1000 * second, 100_000) for second in range(0, 11)]
    slow = [(second, 10_000 + (second - 10), 100_000) for second in range(11, 200)]
    assert ", 1.0/s" in run(clock, [*links, *slow], "files")[-1]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(4.06, "4.1 s"), (59, "59 s"), (65, "1 min 5 s"), (3599, "59 min"), (12_000, "3 h 20 min"), (90_000, "1 d 1 h")],
)
def test_durations_have_one_or_two_units(clock, seconds, shown):
    (line,) = run(clock, [(0, 0, 9), (10 * seconds, 10, 90)], "epochs")
    assert line.endswith(f", {shown} each")


@pytest.mark.parametrize("line", ["12 % of it", "50%", "half", "1 of 2: x", "a 10%, x"])
def test_other_lines_are_no_progress(line):
    assert read_progress(line) is None
