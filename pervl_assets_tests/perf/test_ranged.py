"""Reading members from a bucket is less work than one request a member, and than downloading the archive."""

import pytest

from pervl_assets_tests.perf import ranged

pytestmark = pytest.mark.bench


def test_ranges_are_few_and_sooner_than_both_straightforward_ways(tmp_path):
    outcomes, size = ranged.compare_ways(30, 0.02, tmp_path)
    project, single, whole = (outcomes[way] for way in ("project", "one request a member", "download, then read"))
    assert ranged.make_table(outcomes, size, 0.02).row_count == 3
    assert project.requests < single.requests / 5
    assert project.received < min(1.6 * size, whole.received / 4)
    assert project.seconds < single.seconds / 2
