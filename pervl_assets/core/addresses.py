"""Addresses of objects in buckets and of files on web servers: `s3://pervl/raw/train.zip`, `https://host/train.zip`.

Buckets are opened with obstore. Its credentials are those of the SDKs: `AWS_…`, `AWS_ENDPOINT_URL`, `GOOGLE_…` in the
environment, or the role of the machine. No address, setting, log or event holds one.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from pervl_assets.core.errors import AddressError, MissingInputError, NoAnswerError, WriteError

if TYPE_CHECKING:
    from obstore.store import ObjectStore, RetryConfig

_BUCKETS: Final = ("s3", "gs")
_LOOPBACK: Final = ("127.0.0.1", "::1", "localhost")
_SHOWN: Final = "must not hold a user name, a password, ? or #: they would be shown with the address"
_KINDS: Final = "must begin with s3://, gs:// or https:// (http:// on this machine only)"
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ENVIRONMENT: Final = ("AWS_", "GOOGLE_")
_METADATA_SERVER: Final = "169.254.169.254"
_RETRIES: "Final[RetryConfig]" = {
    "max_retries": 8,
    "retry_timeout": timedelta(minutes=2),
    # Pauses are drawn by chance, none below the first: a server that is started again is away for seconds.
    "backoff": {"init_backoff": timedelta(seconds=0.5), "max_backoff": timedelta(seconds=15), "base": 2},
}
_ANSWER_SECONDS: Final = 30
_SLOWEST: Final = 100_000
"""Bytes a second at which the largest values can still be sent."""

_NO_NAME: Final = "Could not parse path"
_CODE: Final = re.compile(r"<Code>(\w{1,60})</Code>")
_STATUS: Final = re.compile(r"status code: ([0-9]{3})")
_BUSY: Final = re.compile(r"408|425|429|5..|400 RequestTimeout$")
"""Statuses of a server that may obey later."""

_CREDENTIALS: Final = (
    "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (Google: GOOGLE_APPLICATION_CREDENTIALS) in the environment of "
    "this process, or AWS_SKIP_SIGNATURE=true for a public bucket, and check that they may use it. Profiles in ~/.aws "
    "are not read: `aws configure export-credentials` prints them as variables."
)
_CHECK: Final = (
    "Check the bucket's name, AWS_ENDPOINT_URL, AWS_REGION and the network, then run again: finished work is kept."
)


@dataclass(frozen=True)
class Address:
    """The address of an object, or of everything below it. It holds no secret; `str()` is its text.

    Attributes:
        text: E.g. `s3://pervl/raw/train.zip`, without a slash at its end.
    """

    text: str

    @property
    def scheme(self) -> str:
        """Its scheme: `s3`, `gs`, `https` or `http`."""
        return self.text.partition("://")[0]

    @property
    def is_bucket(self) -> bool:
        """Whether it is in a bucket, not on a web server."""
        return self.scheme in _BUCKETS

    @property
    def name(self) -> str:
        """Its last part, e.g. `train.zip`."""
        return self.text.rpartition("/")[2]

    def __truediv__(self, path: str) -> "Address":
        """Return the address of something below it."""
        return parse_address(f"{self.text}/{path}")

    def __str__(self) -> str:
        return self.text


Place = Path | Address
"""Where something is: on this machine, or at an address."""


def is_address(text: str) -> bool:
    """Return whether a text is an address, well-formed or not, and no path."""
    return _NAME.match(text) is not None


def parse_address(text: str) -> Address:
    """Return the address that a text is.

    Raises:
        ValueError: It is none that can be read, or may hold a secret. The message does not repeat it.
    """
    try:
        url = urlsplit(text)
        host, path = url.hostname, url.path
        scheme = text.partition("://")[0]
        usable = scheme in (*_BUCKETS, "https", "http") and host and url.port != 0
    except ValueError:  # a port or an IPv6 address that cannot be one
        usable = False
    if any(sign in text for sign in "@?#"):
        raise ValueError(_SHOWN)
    if not usable or (scheme == "http" and host not in _LOOPBACK):
        raise ValueError(_KINDS)
    parts = path.rstrip("/").split("/")[1:]
    if not text.isprintable() or "\\" in text or {"", ".", ".."} & {*parts}:
        raise ValueError("must not hold control characters, backslashes, or empty parts, . and .. between slashes")
    return Address(text.rstrip("/"))


def open_address(address: Address, sent: int = 0) -> "tuple[ObjectStore, str]":
    """Return the bucket of an address as a store of obstore, and the path in it, which is empty for the whole bucket.

    Every call of the store must be within `explain_address_errors`.

    Args:
        address: The address.
        sent: Bytes of the largest request. Its answer is waited for as long as sending them may take.

    Raises:
        AddressError: It is not in a bucket, obstore is not installed, or the variables of the SDK cannot be used.
    """
    if not address.is_bucket:
        raise AddressError(f"{address} is not in a bucket.", advice="Use an address of s3:// or gs://.")
    bucket, _, path = address.text.partition("://")[2].partition("/")
    environment = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith(_ENVIRONMENT)))
    with explain_address_errors(address):
        seconds = _ANSWER_SECONDS << (sent // (_ANSWER_SECONDS * _SLOWEST)).bit_length()  # few stores are made
        return _open_bucket(f"{address.scheme}://{bucket}", environment, seconds), path


@lru_cache(maxsize=8)
def _open_bucket(bucket: str, environment: tuple[tuple[str, str], ...], seconds: int) -> "ObjectStore":
    """Open a bucket; `environment` are the variables that obstore reads. A store keeps its connections.

    `seconds` are the longest silence of a server. Those in which a request is sent count as silence.
    """
    from obstore.store import from_url

    endpoints = (value for name, value in environment if name.startswith("AWS_ENDPOINT_URL"))
    return from_url(
        bucket,
        client_options={
            "allow_http": any(value.startswith("http://") for value in endpoints),
            "connect_timeout": timedelta(seconds=10),
            "read_timeout": timedelta(seconds=seconds),
            "timeout": timedelta(days=1),  # of a whole request
        },
        retry_config=_RETRIES,
    )


@contextmanager
def explain_address_errors(address: Address) -> Iterator[None]:
    """Turn the errors of obstore into those of the project. No answer of a server is repeated but its error code.

    Those of conditional reads and writes (`PreconditionError`, `AlreadyExistsError`) are for the caller to catch.

    Raises:
        MissingInputError: There is no such object.
        WriteError: A file of this machine, which is to be uploaded or written, is gone.
        NoAnswerError: No connection, no answer, or an error of the server's own.
        AddressError: No credentials, no permission, no such bucket, or obstore is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise AddressError(
            f"{address} cannot be opened: the package obstore is not installed.",
            advice="Install it with `pip install 'pervl_assets[s3]'`.",
        ) from error
    except FileNotFoundError as error:
        if error.errno or "(os error " in str(error):
            problem = f"{address} cannot be read or written: a file of this machine was removed meanwhile."
            raise WriteError(problem, advice="Run again: finished work is kept.") from error
        if "NoSuchBucket" in str(error):
            raise AddressError(f"The bucket of {address} does not exist.", advice=_CHECK) from None
        raise MissingInputError(
            f"There is nothing at {address}.", advice="Put it there, or correct the address."
        ) from None
    except (AddressError, MissingInputError):
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "obstore" and not str(error).startswith(_NO_NAME):
            raise
        kind, reason, advice = _explain(str(error), type(error).__name__)
        raise kind(f"{address} cannot be read or written: {reason}.", advice=advice) from None


def _explain(text: str, kind: str) -> tuple[type[AddressError], str, str]:
    """Return the kind of an error by its text, the reason, without addresses or answers in it, and advice."""
    if _METADATA_SERVER in text:
        return AddressError, "no credentials are set, and this machine has no role", _CREDENTIALS
    code, status = _CODE.search(text), _STATUS.search(text)
    if kind in ("PermissionDeniedError", "UnauthenticatedError") or (status and status[1] in ("401", "403")):
        return AddressError, f"the server refuses it{f' ({code[1]})' if code else ''}", _CREDENTIALS
    if code or status:
        found = " ".join(one[1] for one in (status, code) if one)
        return NoAnswerError if _BUSY.match(found) else AddressError, f"the server answers {found}", _CHECK
    reasons = {
        _NO_NAME: (AddressError, "no object can have this name"),
        "kind: Timeout": (NoAnswerError, "no answer in time"),
        "TimedOut": (NoAnswerError, "no answer in time"),
        "kind: Connect": (NoAnswerError, "no connection"),
        "HTTP error": (NoAnswerError, "the connection was cut"),
        "PreconditionError": (AddressError, "it was changed meanwhile"),
        "AlreadyExistsError": (AddressError, "it was made meanwhile"),
        "non-partial response": (AddressError, "the server serves no parts of objects"),
    }
    known = (explained for sign, explained in reasons.items() if sign in f"{kind} {text}")
    return *next(known, (AddressError, f"a {kind}")), _CHECK
