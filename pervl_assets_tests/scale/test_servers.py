"""A namespace ends with the test, and reaches nothing."""

import pytest

from pervl_assets_tests.scale.servers import Namespace

pytestmark = pytest.mark.scale


def test_nothing_in_a_namespace_outlives_it_or_leaves_it(tmp_path):
    with Namespace() as namespace:
        namespace.start("sleep", "1000", log=tmp_path / "log")
        interfaces = namespace.run("cat", "/proc/net/dev").stdout.splitlines()[2:]
        found = namespace.find("sleep", "1000")
        assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]
        assert len(found) == 1
    assert namespace.find() == []
