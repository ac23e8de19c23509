"""Clients of object stores and web servers: their credentials, and their failures as one sentence.

Credentials and endpoints come from where each service's own tools look: ``AWS_*`` (``AWS_ENDPOINT_URL`` for other
servers than Amazon's) and the profiles in ``~/.aws``, ``GOOGLE_*``, ``~/.netrc``. They stay in the client: nothing of
ours prints or writes them.
"""

from __future__ import annotations

import errno
import os
import re
from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from compress_ssl.storage.errors import StoreError, StoreRefusedError, StoreUnreachableError
from compress_ssl.storage.places.credentials import s3_credentials, web_credentials
from compress_ssl.storage.places.urls import without_secrets

if TYPE_CHECKING:
    from datetime import datetime

    from obstore import UpdateVersion

ANSWER_SECONDS, CONNECT_SECONDS = 300, 10  # for a whole answer, and for a connection

Version: TypeAlias = "UpdateVersion"
"""Distinguishes an object from earlier and later ones of its name: its ETag, its generation, or both."""


class ObjectStat(NamedTuple):
    """A server's description of an object."""

    bytes: int
    version: Version
    changed: datetime


class PutRefusedError(Exception):
    """A conditional put was refused: there is an object already, or another version of it."""

    was_sent_before = False  # true if the answer to an earlier attempt was lost, which may have put the object


@lru_cache(maxsize=256)
def client(root: str) -> Any:
    """Return the obstore client of a bucket or host; one per process. ``retries`` repeats its requests, it does not.

    Raises:
        StoreRefusedError: If the configuration found cannot be used.
    """
    from obstore.exceptions import BaseError
    from obstore.store import GCSStore, HTTPStore, S3Store

    scheme, name = root.split("://")
    options: Any = {"timeout": timedelta(seconds=ANSWER_SECONDS), "connect_timeout": timedelta(seconds=CONNECT_SECONDS)}
    settings: Any = {"client_options": options, "retry_config": {"max_retries": 0}}
    try:
        if scheme == "s3":
            found = s3_credentials()
            settings |= {"config": found.config, "credential_provider": found.provider}
            # The user's own endpoint may be without TLS, as in a lab's network; Amazon's never is.
            options["allow_http"] = found.endpoint.lower().startswith("http://")
            return S3Store(name, **settings)
        if scheme == "gs":
            options["allow_http"] = True  # asked for by nothing but a service account's file that names such a server
            return GCSStore(name, **settings)
        options |= {"allow_http": scheme == "http", "default_headers": web_credentials(name)}
        return HTTPStore(f"{root}/", **settings)
    except (BaseError, ValueError, TypeError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreRefusedError(
            f"'{root}' cannot be used: {first_line(error)}; check what the environment sets."
        ) from None


STATUS = re.compile(r"status code: ((\d{3}) [A-Z][A-Za-z ]*)")
HOST = re.compile(r"https?://(?:[^/\s]*@)?([^/\s]+)")

PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")

REFUSALS = (
    ("NoSuchBucket", "there is no such bucket; check its name, or create it"),
    ("computeMetadata", "no credentials were found; set GOOGLE_APPLICATION_CREDENTIALS"),
    ("ExpiredToken", "the credentials have expired; renew them"),
    ("RequestTimeTooSkewed", "this machine's clock is wrong; set it"),
    ("code: 401", "the server does not accept these credentials; correct or renew them"),
    (
        "code: 403",
        "the server refuses these credentials, or the lack of them, for this; check them and the bucket's rules",
    ),
    ("PermanentRedirect", "the bucket is in another region; set AWS_REGION"),
    ("MissingContentLength", "the server does not state the size of what it sends (Content-Length); use another"),
    ("InvalidContentType", "the server does not speak TLS; give its address as http://"),
    ("kind: Builder", "the client cannot use its address; check AWS_ENDPOINT_URL, or what else names the server"),
    ("certificate", "the server's certificate is not trusted by this machine; add its issuer, or check the address"),
)
FAILURES = (
    ("lookup address", "there is no host {host}; check the URL and AWS_ENDPOINT_URL"),
    ("kind: Connect", "no connection to {host}; check the URL and the network"),
    ("kind: Timeout", "no answer from {host} in time; check the network"),
    ("HttpError", "the connection to {host} was broken off; check the network"),
)  # parts of the client's messages, and what they mean: the server refuses a request, or it or the network fails


def explained(place: object, error: BaseException) -> Exception:
    """Return an error of a request, the client's as one sentence that names the place and the reason.

    Returns:
        FileNotFoundError: If there is no such object.
        PutRefusedError: If a conditional put is refused.
        StoreUnreachableError: If the server or the network fails: later the same request may succeed.
        StoreRefusedError: If the request is refused, or makes the client fail.
    """
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

    text = str(error)
    if isinstance(error, AlreadyExistsError | PreconditionError):
        return PutRefusedError(str(place))
    if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in text:
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place))
    is_clients = isinstance(error, FileNotFoundError | BaseError) or "Could not parse path" in text
    if isinstance(error, Exception) and not is_clients:
        return error
    host = found[1] if (found := HOST.search(text)) else "the server"
    if any(map(os.environ.get, PROXIES)):
        host += " (through a proxy, unless NO_PROXY names it)"
    for reasons, error_class in ((REFUSALS, StoreRefusedError), (FAILURES, StoreUnreachableError)):
        for sign, reason in reasons:
            if sign in text:
                return error_class(f"'{place}' cannot be used: {reason.format(host=host)}.")
    if (answer := STATUS.search(text)) is None:
        return StoreRefusedError(f"'{place}' cannot be used: {first_line(error)}; check the place.")
    status = int(answer[2])
    may_pass = (status >= 500 and status != 501) or status in (408, 425, 429) or "RequestTimeout" in text
    failed = StoreUnreachableError if may_pass else StoreRefusedError
    code = re.search("<Code>([A-Za-z]+)</Code>", text)
    said = f"{answer[1].strip()}{f' ({code[1]})' if code else ''}"
    return failed(f"'{place}' cannot be used: the server answers {said}; try again later, or check the place.")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without secrets."""
    return without_secrets(str(error).partition("\n")[0])
