"""A team's instance on a real Postgres: commands at the same time, kills, code servers, logs, and its password.

PostgreSQL is that of this machine, or Debian's package unpacked into a temporary folder. It runs under a user of its
own on 127.0.0.1, and ends with this process.
"""

import base64
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import dagster as dg
import httpx
import pytest
import yaml

from pervl_assets.core.addresses import open_address, parse_address
from pervl_assets.settings import POSTGRES_URL
from pervl_assets_tests.defs.test_secrets import find_secret
from pervl_assets_tests.test_dagster_yaml import TEAM

pytestmark = [pytest.mark.scale, pytest.mark.timeout(600)]

PASSWORD = "Zq7@unmistakable%Kx9"
SECRET = "unmistakable"
IMAGES = 'key:"inversion/coco_image_features"'
WAIT_SECONDS = 280  # the machine may be busy

EXPERIMENT = """
import dagster as dg

@dg.asset(deps=[dg.AssetKey(["ytvos", "fsl_seg"])])
def scores() -> None:
    print("Fluffy was here")

defs = dg.Definitions([scores], jobs=[dg.define_asset_job("score", [scores])])
"""


class Postgres:
    """A database server on a free port of 127.0.0.1.

    Attributes:
        url: Address of its database, with user and password.
        socket_url: The same by a socket file, which is there in every network namespace.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        as_root = os.geteuid() == 0
        user = ["--reuid=nobody", "--regid=nogroup", "--clear-groups"] if as_root else []
        self._as_user = ["setpriv", *user, "--pdeathsig=QUIT"]
        self._programs, self._data, self._log = programs, folder / "data", folder / "log"
        self._data.mkdir()
        (folder / "password").write_text(PASSWORD)
        if as_root:
            folder.chmod(0o711)
            for path in (self._data, folder / "password"):
                shutil.chown(path, "nobody")
        self._port = find_port()
        self.url = f"postgresql+psycopg2://pervl:{quote(PASSWORD, safe='')}@127.0.0.1:{self._port}/postgres"
        self.socket_url = f"{self.url}?host={self._data}"
        options = ["--auth=scram-sha-256", f"--pwfile={folder / 'password'}", "--username=pervl", "--no-sync"]
        made = self._call("initdb", f"--pgdata={self._data}", "--locale=C", "--encoding=UTF8", *options)
        if made.wait() != 0:
            pytest.fail(f"initdb failed: {self._log.read_text(errors='replace')[-2000:]}")

    def _call(self, program: str, *arguments: str) -> "subprocess.Popen[bytes]":
        command = [*self._as_user, str(self._programs / program), *arguments]
        with self._log.open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, cwd="/", start_new_session=True)

    def start(self) -> None:
        """Start the server; return once it answers."""
        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self._data}", "-c", "fsync=off"]
        self._server = self._call("postgres", "-D", str(self._data), "-p", str(self._port), *options)
        wait_until(self._answers, self._server)

    def _answers(self) -> bool:
        with suppress(self._driver.OperationalError), closing(self.connect()):
            return True
        return False

    def kill(self) -> None:
        """End the server at once, as a crash does."""
        if self._server.poll() is None:
            self._server.send_signal(signal.SIGQUIT)
        self._server.wait()

    @property
    def _driver(self):
        import psycopg2

        return psycopg2

    def connect(self):
        """Connect to its database."""
        return self._driver.connect(self.url.replace("+psycopg2", ""))

    def read_cells(self) -> Iterator[bytes]:
        """Yield everything that is stored, unpacked: Dagster keeps descriptions of jobs compressed."""
        with closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            for (table,) in cursor.fetchall():
                cursor.execute(f'SELECT * FROM "{table}"')  # noqa: S608
                for row in cursor:
                    for cell in row:
                        content = bytes(cell) if isinstance(cell, memoryview) else str(cell).encode()
                        yield content
                        with suppress(zlib.error):
                            yield zlib.decompress(content)


def find_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[bytes] | None" = None) -> None:
    due = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert process is None or process.poll() is None, "it ended"
        assert time.monotonic() < due, f"not within {WAIT_SECONDS} s"
        time.sleep(0.1)


def find_programs(folder: Path) -> Path:
    """Return the folder with the programs of PostgreSQL; unpack Debian's package if this machine has none."""
    if installed := sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        return installed[-1].parent
    if not (shutil.which("apt-get") and shutil.which("dpkg") and shutil.which("setpriv")):
        pytest.skip("needs PostgreSQL, or Debian to unpack its package from")
    depends = subprocess.run(["apt-cache", "depends", "postgresql"], capture_output=True, text=True, check=False)
    name = re.search(r"postgresql-\d+", depends.stdout)
    if not name or subprocess.run(["apt-get", "-q", "download", name[0]], cwd=folder, check=False).returncode:
        pytest.skip(
            "needs PostgreSQL, which is not installed and cannot be downloaded (apt-get update, apt-get download)"
        )
    (package,) = folder.glob("postgresql-*.deb")
    subprocess.run(["dpkg", "-x", package, folder / "package"], check=True)
    (found,) = (folder / "package/usr/lib/postgresql").glob("*/bin")
    return found


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A server that has an empty database at first."""
    pytest.importorskip("dagster_postgres", reason="needs the extra [postgres]")
    with tempfile.TemporaryDirectory(prefix="pervl-postgres-", dir="/tmp") as name:
        Path(name).chmod(0o711)
        server = Postgres(find_programs(Path(name)), Path(name))
        server.start()
        yield server
        server.kill()


class Machine:
    """A machine of the team: a data folder, and a folder of Dagster with the team's `dagster.yaml`.

    Without a bucket, output of steps is in files.
    """

    def __init__(self, root: Path, postgres: Postgres, bucket: str = "", **settings: str) -> None:
        self.root, self.home = root, root / "home"
        self.features = root / "data/assets/inversion/coco_image_features"
        self.home.mkdir(parents=True)
        config = yaml.safe_load(TEAM.read_text(encoding="utf-8"))
        config["compute_logs"]["config"]["bucket"] = bucket
        if not bucket:
            del config["compute_logs"]
        config["run_queue"] = {"dequeue_interval_seconds": 1}
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        self.env = {name: text for name, text in os.environ.items() if not name.startswith(("PERVL_", "DAGSTER_"))}
        self.env |= {"DAGSTER_HOME": str(self.home), POSTGRES_URL: postgres.url, "PERVL_DATA": str(root / "data")}
        self.env |= {"PERVL_PROFILE": "demo", "PERVL_FETCH": "off", "PERVL_DEVICE": "cpu", **settings}

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """Start a Python module, e.g. `pervl_assets.cli`, in a session of its own."""
        return subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", sys.executable, "-m", *command],
            cwd=self.root,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def materialize(self, selection: str) -> "subprocess.Popen[str]":
        return self.start("pervl_assets.cli", "materialize", "--select", selection)


@pytest.fixture
def instance(postgres, tmp_path, monkeypatch) -> Iterator[dg.DagsterInstance]:
    """The team's instance, opened from here."""
    monkeypatch.setenv(POSTGRES_URL, postgres.url)
    shutil.copytree(Machine(tmp_path / "observer", postgres).home, tmp_path / "opened")
    with dg.DagsterInstance.from_config(str(tmp_path / "opened")) as opened:
        yield opened


def finish(process: "subprocess.Popen[str]", code: int = 0) -> str:
    """Return what a process said; it must end with this code."""
    said, _ = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == code, said
    return said


def kill(process: "subprocess.Popen[str]") -> None:
    """Kill a process with everything that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def list_encodings(instance, run_ids) -> list[tuple[float, float]]:
    """Return start and end of every encoding step."""
    steps = [one for run_id in run_ids for one in instance.get_run_step_stats(run_id)]
    return sorted((one.start_time, one.end_time) for one in steps if "encode" in one.step_key)


@pytest.fixture(scope="module")
def made(postgres, tmp_path_factory) -> tuple[list[Machine], list[str]]:
    """Two machines that made the same at the same time, from an empty database; and what they said."""
    root = tmp_path_factory.mktemp("team")
    machines = [
        Machine(root / executor, postgres, PERVL_EXECUTOR=executor) for executor in ("multiprocess", "in_process")
    ]
    commands = [machine.materialize(f"+{IMAGES}") for machine in machines]
    return machines, [finish(command) for command in commands]


def test_two_commands_at_once_on_an_empty_database_share_the_pool(made, instance):
    runs = instance.get_runs()
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS}
    encodings = list_encodings(instance, [run.run_id for run in runs])
    assert len(encodings) == 4  # two shards each
    assert all(end <= start for (_, end), (start, _) in pairwise(encodings))
    shards = [[one.read_bytes() for one in sorted(machine.features.glob("*.parquet"))] for machine in made[0]]
    assert shards[0] == shards[1]


def start_encoding(machine: Machine, instance: dg.DagsterInstance) -> "tuple[subprocess.Popen[str], str]":
    """Start to encode again; return the command and its run once that holds the pool."""
    shutil.rmtree(machine.features)
    command = machine.materialize(IMAGES)
    holders: list[str] = []

    def is_encoding() -> bool:
        holders[:] = instance.event_log_storage.get_concurrency_info("gpu").active_run_ids
        return bool(holders)

    wait_until(is_encoding, command)
    return command, holders[0]


def test_a_command_that_is_killed_is_found_dead_and_its_slot_is_free(made, instance):
    machine = made[0][1]
    killed, run_id = start_encoding(machine, instance)
    kill(killed)
    assert instance.get_run_by_id(run_id).status == dg.DagsterRunStatus.STARTED
    assert f"run {run_id} was left by a process that was killed" in finish(machine.materialize(IMAGES))
    assert instance.get_run_by_id(run_id).status == dg.DagsterRunStatus.FAILURE
    assert not instance.event_log_storage.get_concurrency_info("gpu").active_run_ids


def test_a_database_that_goes_away_is_an_error_and_the_next_command_continues(made, postgres, instance):
    machine = made[0][1]
    command, run_id = start_encoding(machine, instance)
    postgres.kill()
    said = finish(command, code=1)
    assert f"error The Postgres database of {machine.home / 'dagster.yaml'} cannot be used" in said
    assert "Traceback" not in said
    assert "unmistakable" not in said
    postgres.start()
    assert f"run {run_id} was left by a process that was killed" in finish(machine.materialize(IMAGES))


def test_the_password_is_nowhere(made, postgres, instance):
    """Also not in the arguments of processes, which get the instance as one."""
    machines, said = made
    forms = [
        PASSWORD,
        quote(PASSWORD, safe=""),
        SECRET,
        SECRET.encode().hex(),
        base64.b64encode(PASSWORD.encode()).decode()[:-4],
    ]
    cells = [*postgres.read_cells()]
    assert len(cells) > 1000
    assert not [cell for cell in cells if any(form.encode() in cell for form in forms)]
    assert not [line for line in said if SECRET in line]
    assert find_secret(machines[0].root.parent, SECRET) == []
    command, _ = start_encoding(machines[0], instance)
    arguments = [read_arguments(folder) for folder in Path("/proc").glob("[0-9]*")]
    kill(command)
    assert not [line for line in arguments if SECRET.encode() in line]


def read_arguments(process: Path) -> bytes:
    with suppress(OSError):  # it has ended
        return (process / "cmdline").read_bytes()
    return b""


def test_the_page_shows_two_code_servers_and_one_of_them_executes_a_run(postgres, tmp_path, instance):
    machine = Machine(tmp_path / "machine", postgres)
    (machine.root / "experiment.py").write_text(EXPERIMENT)
    ports = find_port(), find_port(), find_port()
    workspace = TEAM.with_name("workspace.team.yaml").read_text(encoding="utf-8")
    (machine.root / "workspace.yaml").write_text(
        workspace.replace("port: 4266", f"port: {ports[0]}").replace("port: 4267", f"port: {ports[1]}")
    )
    server = ("dagster", "code-server", "start", "--port")
    ui = ("pervl_assets.cli", "ui", "--workspace", "workspace.yaml", "--port", str(ports[2]))
    with ExitStack() as stack:
        for command in [
            (*server, str(ports[0]), "--module-name", "pervl_assets.definitions"),
            (*server, str(ports[1]), "--python-file", "experiment.py"),
            ui,
        ]:
            stack.callback(kill, machine.start(*command))
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{ports[2]}", trust_env=False, timeout=60))

        def ask(query: str, **variables: object) -> dict:
            answer = client.post("/graphql", json={"query": query, "variables": variables})
            answer.raise_for_status()
            return answer.json()["data"]

        locations = "{workspaceOrError {... on Workspace {locationEntries {name locationOrLoadError {__typename}}}}}"
        loaded = [
            {"name": name, "locationOrLoadError": {"__typename": "RepositoryLocation"}}
            for name in ("experiments", "pervl_assets")
        ]

        def is_loaded() -> bool:
            with suppress(httpx.TransportError):
                return sorted(ask(locations)["workspaceOrError"]["locationEntries"], key=str) == sorted(loaded, key=str)
            return False

        wait_until(is_loaded)
        selector = {"jobName": "score", "repositoryName": "__repository__", "repositoryLocationName": "experiments"}
        launched = ask(
            "mutation($p: ExecutionParams!) {launchRun(executionParams: $p) {... on LaunchRunSuccess {run {runId}}}}",
            p={"selector": selector, "runConfigData": {}},
        )
        run_id = launched["launchRun"]["run"]["runId"]
        wait_until(lambda: instance.get_run_by_id(run_id).is_finished)
        assert instance.get_run_by_id(run_id).status == dg.DagsterRunStatus.SUCCESS


def test_output_of_steps_is_in_the_bucket(postgres, tmp_path, bucket):
    pytest.importorskip("dagster_aws", reason="needs dagster-aws, of the extra [postgres]")
    machine = Machine(tmp_path / "machine", postgres, bucket.address.removeprefix("s3://"), **bucket.server.env)
    (machine.root / "experiment.py").write_text(EXPERIMENT)
    finish(machine.start("dagster", "job", "execute", "--python-file", "experiment.py", "--job", "score"))
    store, _ = open_address(parse_address(bucket.address))
    found = [one["path"] for chunk in store.list("dagster-logs") for one in chunk]
    printed = [bytes(store.get(path).bytes()) for path in found if path.endswith(".out")]
    assert printed == [b"Fluffy was here\n"]
