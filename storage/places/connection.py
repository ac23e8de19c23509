"""Clients of object stores and web servers: their credentials, and their failures as one sentence.

Credentials and endpoints come from where each service's own tools look: ``AWS_*`` (``AWS_ENDPOINT_URL`` for other
servers than Amazon's) and the profiles in ``~/.aws``, ``GOOGLE_*``, ``~/.netrc``. They stay in the client: nothing of
ours prints or writes them.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import netrc
import os
import re
from datetime import timedelta
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from compress_ssl.storage.errors import StoreError, StoreRefusedError, StoreUnreachableError
from compress_ssl.storage.places.credentials import needs, s3_credentials

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from obstore import UpdateVersion

RETRY_SECONDS = "COMPRESS_SSL_RETRY_SECONDS"
"""Environment variable: for how long a failing request is retried; three minutes unless set."""

Version: TypeAlias = "UpdateVersion"
"""Distinguishes an object from earlier and later ones of its name: its ETag, its generation, or both."""


class ObjectStat(NamedTuple):
    """A server's description of an object."""

    bytes: int
    version: Version
    changed: datetime


class PutRefusedError(Exception):
    """A conditional put was refused: there is an object already, or another version of it."""


@lru_cache(maxsize=256)
def client(root: str) -> Any:
    """Return the obstore client of a bucket or host; one per process.

    Raises:
        StoreRefusedError: If the configuration found cannot be used.
    """
    scheme, name = root.split("://")
    from obstore.store import GCSStore, HTTPStore, S3Store

    seconds = float(os.environ.get(RETRY_SECONDS) or 180)
    retry: Any = {"retry_timeout": timedelta(seconds=seconds)}
    options: Any = {"timeout": timedelta(minutes=5), "connect_timeout": timedelta(seconds=10)}
    if scheme == "s3":
        found = s3_credentials()
        settings: Any = {"config": found.config, "credential_provider": found.provider}
        # The user's own endpoint may be without TLS, as in a lab's network; Amazon's never is.
        options["allow_http"] = found.endpoint.startswith("http://")
        return S3Store(name, **settings, client_options=options, retry_config=retry)
    if scheme == "gs":
        options["allow_http"] = True  # asked for by nothing but a service account's file that names such a server
        return GCSStore(name, client_options=options, retry_config=retry)
    headers = {}
    with contextlib.suppress(OSError, netrc.NetrcParseError):  # user and password of ~/.netrc, or the file in NETRC
        entry = netrc.netrc(os.environ.get("NETRC")).hosts.get(urlsplit(f"//{name}").hostname or "")
        if entry is not None:
            token = base64.b64encode(f"{entry[0]}:{entry[2]}".encode()).decode()
            headers = {"authorization": f"Basic {token}"}
    options |= {"allow_http": scheme == "http", "default_headers": headers}
    return HTTPStore(f"{root}/", client_options=options, retry_config=retry)


SERVER_ANSWERED = re.compile(r"status code: (\d{3} [A-Z][A-Za-z ]*)")

REFUSALS = (
    ("NoSuchBucket", "there is no such bucket; check its name, or create it"),
    ("metadata.google.internal", "no credentials were found; set GOOGLE_APPLICATION_CREDENTIALS"),
    ("code: 401", "the server does not accept these credentials; correct or renew them"),
    (
        "code: 403",
        "the server refuses these credentials, or the lack of them, for this; check them and the bucket's rules",
    ),
    ("PermanentRedirect", "the bucket is in another region; set AWS_REGION"),
)
FAILURES = (
    ("lookup address", "there is no such host; check the URL and AWS_ENDPOINT_URL"),
    ("kind: Connect", "no connection; check the URL and the network, then run the same command again"),
    ("kind: Timeout", "no answer in time; check the network, then run the same command again"),
)  # parts of the client's messages, and what they mean: the server refuses a request, or cannot be reached


@contextlib.contextmanager
def reaching(place: object) -> Iterator[None]:
    """Turn the client's errors into one sentence that names the place and the reason.

    Raises:
        FileNotFoundError: If there is no such object.
        PutRefusedError: If a conditional put is refused.
        StoreUnreachableError: If the server cannot be reached (after retries).
        StoreRefusedError: If it refuses the request, or has no such bucket.
        StoreError: If obstore is not installed.
    """
    if find_spec("obstore") is None:
        raise StoreError(needs("obstore", purpose=f"'{place}'"))
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

    try:
        yield
    except (AlreadyExistsError, PreconditionError) as error:
        raise PutRefusedError(str(place)) from error
    except (FileNotFoundError, BaseError) as error:
        text = str(error)
        if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in text:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place)) from None
        for reasons, error_class in ((REFUSALS, StoreRefusedError), (FAILURES, StoreUnreachableError)):
            for sign, reason in reasons:
                if sign in text:
                    raise error_class(f"'{place}' cannot be used: {reason}.") from None
        answered = SERVER_ANSWERED.search(text)
        said = f"the server answers {answered[1].strip()}" if answered else without_secrets(text.partition("\n")[0])
        raise StoreUnreachableError(f"'{place}' cannot be used: {said}; try again later, or check the place.") from None


def without_secrets(text: str) -> str:
    """Return a URL, or a text that holds some, without users, passwords and queries."""
    return re.sub(r"://[^/\s]*@", "://", re.sub(r"[?#][^\s'\"]*", "", text))
