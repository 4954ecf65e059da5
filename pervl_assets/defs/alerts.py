"""Messages about failed runs, by e-mail and to Slack. The sensor that sends them ships stopped, as all automation."""

import html
import os
import smtplib
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from typing import Final
from urllib.parse import unquote, urlsplit

import dagster as dg

from pervl_assets.core.errors import PervlError, list_some, name_some
from pervl_assets.core.text import hide_secrets
from pervl_assets.defs.jobs import JOB_RUN_TAG, JOB_TAG
from pervl_assets.defs.run_results import read_run_result
from pervl_assets.io_managers.metadata import show_errors_first
from pervl_assets.settings import SLACK_WEBHOOK, SMTP_URL, Settings, get_variable

_WILL_RETRY: Final = "dagster/will_retry"
"""Dagster's tag of a failed run that its daemon starts again."""

_SECONDS: Final = 30
"""How long a server may take to answer."""

_LONGEST: Final = 3000
"""Characters of a message; the page of the run has all."""


def build_failure_sensor(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor that sends a message when a run has failed; of a job and its runs, for the job."""

    @dg.run_failure_sensor(
        name="report_failures",
        minimum_interval_seconds=settings.watch_seconds,
        description="Send a message when a run has failed: by e-mail to the addresses of "
        f"{get_variable('alert_email')} through the server of {SMTP_URL}, and to the Slack channel of {SLACK_WEBHOOK}. "
        "Set one or both of them, and restart the server.",
    )
    @show_errors_first()
    def report_failures(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        run = context.dagster_run
        if JOB_RUN_TAG in run.tags and JOB_TAG not in run.tags:
            return dg.SkipReason("The job that started it is reported.")
        if run.tags.get(_WILL_RETRY) == "true":
            return dg.SkipReason("It will be tried again.")
        _send(*_write_message(context.instance, run, settings.ui_url), settings.alert_email)
        return None

    return report_failures


def _write_message(instance: dg.DagsterInstance, run: dg.DagsterRun, ui_url: str) -> tuple[str, str]:
    """Return subject and text: what failed, in the words of its errors, and where the page of the run is."""
    errors, is_job = read_run_result(instance, run.run_id).errors, JOB_TAG in run.tags
    name = run.job_name if is_job else name_some([*dict.fromkeys(one.asset for one in errors)], 3)
    lines = list_some([one.text if is_job else f"{one.asset}: {one.text}" for one in errors])
    text = hide_secrets("\n\n".join(lines))[:_LONGEST]
    return f"PerVL: {name} failed", f"{text}\n\n{ui_url}/runs/{run.run_id}\n"


def _send(subject: str, text: str, recipients: str) -> None:
    """Send a message on every way that is set.

    Raises:
        PervlError: None is set, or a server does not take it; the others were tried.
    """
    mail, slack = os.environ.get(SMTP_URL), os.environ.get(SLACK_WEBHOOK)
    ways: dict[str, Callable[[], None]] = {}
    if mail and recipients:
        ways[SMTP_URL] = lambda: _send_mail(mail, recipients, subject, text)
    if slack:
        ways[SLACK_WEBHOOK] = lambda: _send_to_slack(slack, f"{subject}\n{text}")
    failed = [reason for name, send in ways.items() if (reason := _try(name, send))]
    if failed or not ways:
        raise PervlError(
            "The message about a failed run was not sent" + (":" if failed else ", because no way to send it is set."),
            details=failed,
            advice=f"Set {get_variable('alert_email')} and {SMTP_URL}=smtp://USER:PASSWORD@HOST:587 (or smtps://, or "
            f"smtp://HOST:25 without log-in), or {SLACK_WEBHOOK}=https://…, and restart the server.",
        )


def _try(name: str, send: Callable[[], None]) -> str:
    """Return why sending failed; empty if it did not."""
    try:
        send()
    except OSError as error:  # errors of smtplib are of this kind
        return f"{name}: {hide_secrets(str(error)) or type(error).__name__}"
    except ValueError:  # its text may have a part of a password: `Port could not be cast …`
        return f"{name}: it is no such address"
    return ""


def _send_mail(url: str, recipients: str, subject: str, text: str) -> None:
    """Send an e-mail. A log-in is sent over TLS only, and the certificate of the server is checked."""
    server = urlsplit(url)
    if server.scheme not in ("smtp", "smtps"):
        raise ValueError(server.scheme)
    user, password = unquote(server.username or ""), unquote(server.password or "")
    message = EmailMessage()
    message["From"] = user if "@" in user else recipients.partition(",")[0].strip()
    message["To"], message["Subject"] = recipients, subject
    message.set_content(text)
    trusted = ssl.create_default_context()
    if server.scheme == "smtps":
        client: smtplib.SMTP = smtplib.SMTP_SSL(
            server.hostname or "", server.port or 465, timeout=_SECONDS, context=trusted
        )
    else:
        client = smtplib.SMTP(server.hostname or "", server.port or 587, timeout=_SECONDS)
    with client:
        if user and server.scheme != "smtps":
            client.starttls(context=trusted)
        if user:
            client.login(user, password)
        client.send_message(message)


def _send_to_slack(url: str, text: str) -> None:
    """Post a message; what Slack would read as a link or mention is shown as it is."""
    import httpx  # loaded here, because definitions must load fast

    if not url.startswith(("https://", "http://")):
        raise ValueError("no address")
    try:
        answer = httpx.post(url, json={"text": html.escape(text, quote=False)}, timeout=_SECONDS)
    except httpx.InvalidURL:
        raise ValueError("no address") from None
    except httpx.HTTPError:
        raise OSError("the server does not answer") from None  # the error has the address, which is a secret
    if not answer.is_success:
        raise OSError(f"the server refuses it with status {answer.status_code}")
