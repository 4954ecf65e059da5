"""Commands, without the work that they start."""

import os

import pytest
from click.testing import CliRunner

from pervl_assets.cli.commands import main


@pytest.mark.parametrize("profile", ["full", "demo"])
def test_the_demo_is_not_drawn_beside_the_real_data(tmp_path, monkeypatch, profile):
    monkeypatch.chdir(tmp_path)
    own = {"PERVL_DATA": str(tmp_path / "real"), "PERVL_RAW": str(tmp_path / "raw"), "PERVL_PROFILE": profile}
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    seen = {}
    monkeypatch.setattr("pervl_assets.cli.materialize.run_graph", lambda _: seen.update(os.environ))
    done = CliRunner().invoke(main, ["demo"])
    left = {} if profile == "full" else {name: own[name] for name in ("PERVL_DATA", "PERVL_RAW")}
    assert {name: seen[name] for name in own if name in seen} == {**left, "PERVL_PROFILE": "demo"}
    assert done.stderr.count("is ignored: the demo has its own.") == 2 - len(left)
