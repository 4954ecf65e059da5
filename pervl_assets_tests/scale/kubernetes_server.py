"""Kubernetes' API for jobs and their pods, on 127.0.0.1: a pod is a process of this machine.

It takes only jobs that Kubernetes' own schema takes, and gives a pod the variables, secrets and config maps that its
job names, and none of pytest's.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import kubernetes_validate

KUBERNETES: Final = "1.33"
_BIN: Final = str(Path(sys.executable).parent)


class Pods:
    """The server, from entering to leaving a `with` block, which ends its pods.

    Attributes:
        jobs: Manifests of the jobs it took, by name.
        doomed: Beginnings of the names of steps; the next pod of each is killed as if it used too much memory.
    """

    def __init__(self, folder: Path, secrets: Mapping[str, Mapping[str, str]]) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.doomed: list[str] = []
        self._folder, self._secrets, self._killed = folder, secrets, set[str]()
        self._pods: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Pods":
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _make_handler(self))
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        for pod in self._pods.values():
            pod.kill()
            pod.wait()

    def write_kubeconfig(self) -> Path:
        """Write the file that clients find the server by."""
        name, file = "pods", self._folder / "kubeconfig.json"
        address = f"http://127.0.0.1:{self._server.server_port}"
        parts = {"clusters": {"cluster": {"server": address}}, "users": {"user": {}}}
        context = {"contexts": [{"name": name, "context": {"cluster": name, "user": name}}], "current-context": name}
        listed = {part: [{"name": name, **content}] for part, content in parts.items()}
        file.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **listed, **context}))
        return file

    def read_log(self, name: str) -> str:
        """Return what the pod of a job has printed."""
        return (self._folder / f"{name}.log").read_text(errors="replace")

    def create(self, job: dict[str, Any]) -> None:
        """Start the pod of a job. Raises `kubernetes_validate.ValidationError` if it is no valid job."""
        kubernetes_validate.validate(job, KUBERNETES, strict=True)
        name, (container,) = job["metadata"]["name"], job["spec"]["template"]["spec"]["containers"]
        env = {"PATH": f"{_BIN}:{os.environ['PATH']}", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        for source in container["envFrom"]:
            env |= self._secrets[next(iter(source.values()))["name"]]
        env |= {one["name"]: one["value"] for one in container["env"] if "value" in one}
        env |= {"HOME": str(home := self._folder / name), "PERVL_SCRATCH": str(home / "scratch")}  # both empty
        home.mkdir()
        with (self._folder / f"{name}.log").open("wb") as log:
            self._pods[name] = subprocess.Popen(container["args"], env=env, cwd=self._folder, stdout=log, stderr=log)
        self.jobs[name] = job
        step = job["metadata"]["labels"].get("dagster/op", "")
        if fate := next((one for one in self.doomed if step.startswith(one)), None):
            self.doomed.remove(fate)
            self._killed.add(name)
            self._pods[name].kill()

    def delete(self, name: str) -> None:
        """End the pod of a job, as the deletion of the job does."""
        self._pods[name].terminate()

    def lose(self, name: str) -> None:
        """End the pod of a job at once, as the loss of its node does."""
        self._pods[name].kill()

    def describe(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the status of a job, and that of its pod."""
        code = self._pods[name].poll()
        if code is None:
            return {"active": 1}, {"phase": "Running"}
        ended = {"exitCode": 137 if code < 0 else code, "reason": "OOMKilled" if name in self._killed else "Error"}
        container = {"name": "dagster", "image": "", "imageID": "", "ready": False, "restartCount": 0}
        statuses = [{**container, "state": {"terminated": ended}}]
        return {"failed" if code else "succeeded": 1}, {"phase": "Failed", "containerStatuses": statuses}


def _make_handler(pods: Pods) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _answer(self, status: int, content: Mapping[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _find(self) -> str | None:
            """Return the job of a request; answer 404 if there is none of that name."""
            name = next((part for part in urlsplit(self.path).path.split("/") if part in pods.jobs), None)
            if name is None:
                self._answer(404, {"message": f"{self.path} not found"})
            return name

        def do_POST(self) -> None:
            job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            try:
                pods.create(job)
            except kubernetes_validate.ValidationError as error:
                self._answer(422, {"message": error.message})
            else:
                self._answer(201, job)

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            if url.path.endswith("/pods"):
                name = parse_qs(url.query)["labelSelector"][0].removeprefix("job-name=")
                found = [{"metadata": {"name": name}, "status": pods.describe(name)[1]}] if name in pods.jobs else []
                self._answer(200, {"kind": "PodList", "apiVersion": "v1", "items": found})
            elif name := self._find():
                self._answer(200, {**pods.jobs[name], "status": pods.describe(name)[0]})

        def do_DELETE(self) -> None:
            if name := self._find():
                pods.delete(name)
                self._answer(200, {"kind": "Status", "status": "Success"})

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    return Handler


def wait_until(condition: Any, seconds: float) -> bool:
    """Return whether a condition was met in time."""
    end = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < end:
        time.sleep(0.5)
    return bool(met)
