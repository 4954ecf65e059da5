"""Messages about failed runs, taken by a mail server and a web server on 127.0.0.1."""

import json
import socketserver
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import dagster as dg
import pytest

from pervl_assets.core.errors import MissingInputError, PervlError
from pervl_assets.defs.alerts import build_failure_sensor
from pervl_assets.defs.jobs import JOB_RUN_TAG
from pervl_assets.defs.steps import record_step
from pervl_assets.settings import SLACK_WEBHOOK, SMTP_URL, Settings
from pervl_assets.testing.runs import make_settings


class Mailbox(socketserver.StreamRequestHandler):
    """The server's side of one SMTP session, without TLS."""

    def handle(self):
        self.say("220 ready")
        while line := self.rfile.readline().decode().strip().upper():
            if line == "DATA":
                self.say("354 go on")
                self.server.taken.append(b"".join(iter(self.rfile.readline, b".\r\n")).decode())
            self.say("221 bye" if line == "QUIT" else "250 fine")

    def say(self, text):
        self.wfile.write(f"{text}\r\n".encode())


class Channel(BaseHTTPRequestHandler):
    """A webhook, which answers 404 at /gone."""

    def do_POST(self):
        self.server.taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
        self.send_response(404 if self.path.startswith("/gone") else 200)
        self.end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def serve(kind, handler):
    with kind(("127.0.0.1", 0), handler) as server:
        server.taken = []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def mail(monkeypatch):
    with serve(socketserver.TCPServer, Mailbox) as server:
        monkeypatch.setenv(SMTP_URL, f"smtp://127.0.0.1:{server.server_address[1]}")
        yield server.taken


@pytest.fixture
def slack(monkeypatch):
    with serve(HTTPServer, Channel) as server:
        monkeypatch.setenv(SLACK_WEBHOOK, f"http://127.0.0.1:{server.server_address[1]}/services/secret-part")
        yield server.taken


@pytest.fixture
def report(instance):
    """Fail a run, and evaluate the sensor for it."""

    @dg.asset
    @record_step
    def broken() -> None:
        raise MissingInputError("No zip <here>.", details=["at: https://anna:pw@host/x"], advice="Get one.")

    def call(tags=None, **settings):
        run = dg.materialize([broken], instance=instance, tags=tags, raise_on_error=False)
        (event,) = [one for one in run.all_events if one.event_type == dg.DagsterEventType.RUN_FAILURE]
        context = dg.build_run_status_sensor_context("report_failures", event, instance, run.dagster_run)
        sensor = build_failure_sensor(Settings(**{**make_settings("nowhere").model_dump(), **settings}))
        return run.run_id, sensor(context.for_run_failure())

    return call


def test_a_failed_run_is_reported_by_e_mail_and_to_slack_in_the_words_of_its_error(report, mail, slack):
    run_id, _ = report(alert_email="anna@lab.org, ben@lab.org", ui_url="http://host:3000")
    (letter,), (note,) = mail, slack
    assert "To: anna@lab.org, ben@lab.org" in letter
    assert "Subject: PerVL: broken failed" in letter
    body = f"broken: No zip <here>.\n  at: https://host/x\nWhat to do: Get one.\n\nhttp://host:3000/runs/{run_id}\n"
    assert letter.replace("\r\n", "\n").endswith("\n\n" + body)
    assert note == "PerVL: broken failed\n" + body.replace("<here>", "&lt;here&gt;")


@pytest.mark.parametrize("tag", [{JOB_RUN_TAG: "1234"}, {"dagster/will_retry": "true"}])
def test_a_run_is_not_reported_beside_its_job_or_before_its_last_attempt(report, slack, tag):
    _, result = report(tag)
    assert isinstance(result, dg.SkipReason)
    assert slack == []


def test_a_server_that_takes_no_message_is_named_without_secrets(report, mail, slack, monkeypatch):
    monkeypatch.setenv(SLACK_WEBHOOK, "http://127.0.0.1:1/secret-part")
    monkeypatch.setenv(SMTP_URL, "smtp://anna:hunter2@127.0.0.1:1")
    with pytest.raises(PervlError, match=r"PERVL_SMTP_URL: .*refused") as caught:
        report(alert_email="anna@lab.org")
    assert "PERVL_SLACK_WEBHOOK: the server does not answer" in str(caught.value)
    assert "secret-part" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    for wrong in ("smtp://anna:hunter2/x@127.0.0.1:25", "anna:hunter2@host:25"):
        monkeypatch.setenv(SMTP_URL, wrong)
        monkeypatch.setenv(SLACK_WEBHOOK, "hooks.slack.com/secret-part")
        with pytest.raises(PervlError, match="PERVL_SMTP_URL: it is no such address") as caught:
            report(alert_email="anna@lab.org")
        assert "PERVL_SLACK_WEBHOOK: it is no such address" in str(caught.value)
        assert "hunter2" not in str(caught.value)
        assert "secret-part" not in str(caught.value)
    monkeypatch.delenv(SMTP_URL)
    monkeypatch.delenv(SLACK_WEBHOOK)
    with pytest.raises(PervlError, match="no way to send it is set"):
        report()


def test_a_password_is_not_sent_without_encryption(report, mail, monkeypatch):
    with serve(socketserver.TCPServer, Mailbox) as server:
        monkeypatch.setenv(SMTP_URL, f"smtp://anna:hunter2@127.0.0.1:{server.server_address[1]}")
        with pytest.raises(PervlError, match="STARTTLS"):
            report(alert_email="anna@lab.org")
        assert server.taken == []


def test_the_sensor_ships_stopped_and_wrong_addresses_are_refused():
    assert build_failure_sensor(make_settings("nowhere")).default_status == dg.DefaultSensorStatus.STOPPED
    wrong = {"PERVL_ALERT_EMAIL": "anna", "PERVL_UI_URL": "http://anna:pw@host"}
    with pytest.raises(PervlError, match="2 settings of the environment"):
        Settings.from_env(wrong)
