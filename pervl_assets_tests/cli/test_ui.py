"""`pervl ui` before it serves: the browser test covers the rest."""

import io
import socket

import pytest
from rich.console import Console

from pervl_assets.cli.ui import serve
from pervl_assets.core.errors import PervlError
from pervl_assets.dagster_private import run_web_server


@pytest.mark.parametrize("host", ["127.0.0.1", "203.0.113.1", "no.such.host.invalid"])
def test_an_address_that_cannot_be_used_is_explained_before_anything_is_made(tmp_path, monkeypatch, host):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(PervlError, match=f"cannot listen at {host}, port {port}") as raised:
            serve(Console(file=io.StringIO()), tmp_path, host, port)
    assert "--port" in raised.value.advice
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("text", ["", "load_from: [1", "load_from: [{grpc_server: {}}]"])
def test_a_workspace_that_names_no_code_servers_is_explained(instance, tmp_path, text):
    file = tmp_path / "workspace.yaml"
    file.write_text(text)
    served = run_web_server(instance, "pervl_assets.definitions", "pervl_assets", file, read_only=True)
    with pytest.raises(PervlError, match=r"workspace\.yaml names no code locations"), served:
        pass
